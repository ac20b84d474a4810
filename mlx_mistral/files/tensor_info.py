"""What a file's header says about one tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
"""Bits an element, by the names of the safetensors format."""

FLOATS = frozenset({"F16", "BF16", "F32"})
"""What a weight is cast from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """One stored tensor: its name, dtype (safetensors spelling), shape and bytes in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Offset of the first byte in the file."""
    end: int
    """Offset behind the last byte."""
    file: Path

    @property
    def nbytes(self) -> int:
        return self.end - self.begin

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)
