"""A tensor as it will lie in a file: name, dtype, shape; and how MLX's formats lay one out."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlx_mistral.config import QuantParams
from mlx_mistral.files.tensor_info import DTYPE_BITS

SPELLED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""MLX's names of dtypes as safetensors spells them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of the result. Its rows are its shape but for the last dimension."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def rows(self) -> int:
        return math.prod(self.shape[:-1])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPE_BITS[self.dtype] // 8


def stored_tensors(
    name: str, shape: tuple[int, ...], params: QuantParams | None, dtype: str
) -> list[StoredTensor]:
    """What a parameter becomes: itself, or packed words, scales and, where affine, biases.

    Shapes: (..., columns) -> words (..., columns * bits / 32), scales (..., columns / group).
    Source: mlx.core.quantize.
    """
    spelled = SPELLED[dtype]
    if params is None:
        return [StoredTensor(name=name, dtype=spelled, shape=shape)]
    module = name.removesuffix(".weight")
    *rows, columns = shape
    words = (*rows, columns * params.bits // 32)
    groups = (*rows, columns // params.group_size)
    packed = StoredTensor(name=name, dtype="U32", shape=words)
    if params.mode != "affine":
        return [packed, StoredTensor(name=f"{module}.scales", dtype="U8", shape=groups)]
    return [
        packed,
        StoredTensor(name=f"{module}.scales", dtype=spelled, shape=groups),
        StoredTensor(name=f"{module}.biases", dtype=spelled, shape=groups),
    ]
