"""Linear maps; quantized ones, where many rows come at once, as one product with wide weights.

MLX's CPU kernel unpacks a quantized matrix anew for every row. A BLAS that is put in front of
MLX's own multiplies eight rows nearly as fast as one, so there a matrix is unpacked once for all,
a piece at a time: from four rows on that takes less time, 0.5x with 8 and 0.05x with 128.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn

FEW_ROWS = 4
"""From so many on, unpacking a matrix once pays."""
PIECE_WEIGHTS, MOST_PIECES = 1 << 17, 64
"""Weights that are unpacked at once, so that they stay near the processor; more where a matrix
would fall into too many pieces."""


class Linear(nn.Linear):
    """An `nn.Linear` that is quantized to this room's own."""

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> nn.Module:
        """Called by `mlx.nn.quantize`."""
        other: Any = QuantizedLinear
        if quantize_input:
            other = nn.QQLinear
        made: nn.Module = other.from_linear(self, group_size, bits, mode)
        return made


class QuantizedLinear(nn.QuantizedLinear):
    """An `nn.QuantizedLinear` that unpacks its matrix once where many rows come at once."""

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., in) -> (..., out)."""
        if self._unpacks(x):
            names = ("weight", "scales", "biases")
            products: list[mx.array] = []
            for piece in zip(*(_pieces(self[name], x.shape[-1]) for name in names), strict=True):
                products.append(self._product(x, *_after(products, piece)))
            return mx.concatenate(products, axis=-1) if len(products) > 1 else products[0]
        out: mx.array = super().__call__(x)
        return out

    def _unpacks(self, x: mx.array) -> bool:
        is_many = x.size >= FEW_ROWS * x.shape[-1]
        if not is_many or self.mode != "affine" or "bias" in self or not multiplies_fast():
            return False
        return bool(x.dtype == self["scales"].dtype == mx.float32)

    def _product(
        self, x: mx.array, weight: mx.array, scales: mx.array, biases: mx.array
    ) -> mx.array:
        wide = mx.dequantize(weight, scales, biases, self.group_size, self.bits)
        return x @ wide.T


def _after(products: Sequence[mx.array], piece: Sequence[mx.array]) -> Sequence[mx.array]:
    """The same piece, unpacked once the one before it was multiplied: MLX would unpack many."""
    return mx.depends(list(piece), list(products[-1:])) if products else piece


def multiplies_fast() -> bool:
    """Whether products run on the CPU, in another BLAS than the one that MLX brings."""
    return mx.default_device() == mx.cpu and _has_blas_in_front()


@cache
def _has_blas_in_front() -> bool:
    """MLX's own is hidden inside it; one that is preloaded is seen by all."""
    try:
        return hasattr(ctypes.CDLL(None), "cblas_sgemm")
    except (OSError, TypeError):
        return False


def _pieces(part: mx.array, n_in: int) -> list[mx.array]:
    """Shapes: (out, any) -> (some, any) each."""
    n_out = part.shape[0]
    rows = max(PIECE_WEIGHTS // n_in, -(-n_out // MOST_PIECES), 1)
    return [part[start : start + rows] for start in range(0, n_out, rows)]
