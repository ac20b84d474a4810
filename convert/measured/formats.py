"""The formats that a matrix may get, and how many bytes each takes in a file."""

from __future__ import annotations

import math
from collections.abc import Iterable

from mlx_mistral.config import QuantParams
from mlx_mistral.config.quantization import AFFINE_BITS, AFFINE_GROUPS

Format = QuantParams | None
"""None: left in 16 bits."""

CANDIDATES: tuple[Format, ...] = (
    *(QuantParams(bits=bits, group_size=size) for bits in AFFINE_BITS for size in AFFINE_GROUPS),
    None,
)


def fitting(formats: Iterable[Format], columns: int) -> list[Format]:
    """Those whose groups divide a row of so many weights."""
    return [one for one in formats if one is None or columns % one.group_size == 0]


def stored_bytes(shape: tuple[int, ...], chosen: Format) -> int:
    """Bytes of a matrix, or of a stack of them, with its scales and biases."""
    size = math.prod(shape)
    if chosen is None:
        return 2 * size
    per_group = 4 if chosen.mode == "affine" else 1
    return size * chosen.bits // 8 + size // chosen.group_size * per_group
