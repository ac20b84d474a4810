"""Keys and values in 8 or 4 bits: each row alone, so that how a text was cut does not matter.

A group of 64 numbers of a head (32 where 64 does not divide it) shares a scale and a bias of 16
bits each, so 4 bits take 0.28 and 8 bits 0.53 of what bfloat16 takes (0.31 and 0.56 by 32).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, overload

import mlx.core as mx

from mlx_mistral.errors import CacheError

KV_BITS = (8, 4)
"""The widths that a quantized cache comes in."""
GROUP_SIZES = (64, 32)
"""Numbers that share a scale and a bias, the preferred first."""
SCALE_BYTES = 2


class QuantizedRows(NamedTuple):
    """The keys or the values of n tokens, which may lie in buffers with room for more.

    Shapes: weight (B, K, capacity, D * bits / 32) uint32; scales and biases
    (B, K, capacity, D / group size), of 16 bits.
    """

    weight: mx.array
    scales: mx.array
    biases: mx.array
    n: int

    def bits(self, head_dim: int) -> int:
        return 32 * self.weight.shape[-1] // head_dim

    def group_size(self, head_dim: int) -> int:
        return head_dim // self.scales.shape[-1]

    def dequantize(self, head_dim: int, dtype: mx.Dtype) -> mx.array:
        """Shapes: -> (B, K, n, D)."""
        weight, scales, biases = (part[..., : self.n, :] for part in self[:3])
        return mx.dequantize(
            weight,
            scales.astype(dtype),
            biases.astype(dtype),
            group_size=self.group_size(head_dim),
            bits=self.bits(head_dim),
        )


Rows = mx.array | QuantizedRows
"""Keys or values, (B, K, n, D), as they are or quantized."""


def quantize(rows: mx.array, bits: int) -> QuantizedRows:
    """Shapes: (B, K, n, D) -> the same. Raises: CacheError: no group divides D."""
    group_size = group_size_for(rows.shape[-1])
    weight, scales, biases = mx.quantize(rows, group_size=group_size, bits=bits)
    if rows.dtype.size > SCALE_BYTES:
        scales, biases = scales.astype(mx.float16), biases.astype(mx.float16)
    return QuantizedRows(weight, scales, biases, rows.shape[2])


def group_size_for(head_dim: int) -> int:
    """Raises: CacheError: no group divides the heads."""
    for size in GROUP_SIZES:
        if head_dim % size == 0:
            return size
    raise CacheError(
        f"heads of {head_dim} numbers cannot be quantized, in groups of "
        f"{' or '.join(map(str, GROUP_SIZES))}; leave kv_bits out"
    )


@overload
def each(f: Callable[..., mx.array], *rows: mx.array) -> mx.array: ...
@overload
def each(f: Callable[..., mx.array], *rows: QuantizedRows) -> QuantizedRows: ...
@overload
def each(f: Callable[..., mx.array], *rows: Rows) -> Rows: ...
def each(f: Callable[..., mx.array], *rows: Rows) -> Rows:
    """A function of buffers along the axis of tokens, on every part of rows of one kind."""
    if isinstance(rows[0], mx.array):
        return f(*rows)
    weight, scales, biases = (f(*part) for part in zip(*(one[:3] for one in rows), strict=True))
    return QuantizedRows(weight, scales, biases, weight.shape[2])


def leading(rows: Rows, n: int) -> Rows:
    """The first n rows. Those of a quantized buffer stay in it: cutting them out may copy."""
    return rows._replace(n=n) if isinstance(rows, QuantizedRows) else rows[..., :n, :]
