"""Keys and values in 8 or 4 bits: each row alone, so that how a text was cut does not matter.

A group of 64 numbers of a head (32 where 64 does not divide it) shares a scale and a bias of 16
bits each, so 4 bits take 0.28 and 8 bits 0.53 of what bfloat16 takes (0.31 and 0.56 by 32).
"""

from __future__ import annotations

from typing import NamedTuple

import mlx.core as mx

from mlx_mistral.config.quantization import KV_BITS, KV_GROUPS
from mlx_mistral.errors import CacheError

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


def check_bits(bits: int) -> None:
    """Raises: CacheError: there are no caches so wide."""
    if bits not in KV_BITS:
        choice = " or ".join(map(str, KV_BITS))
        raise CacheError(
            f"a cache of {bits} bits is not available; ask for {choice}, or leave kv_bits out"
        )


def can_quantize(head_dim: int) -> bool:
    return any(head_dim % size == 0 for size in KV_GROUPS)


def group_size_for(head_dim: int) -> int:
    """Raises: CacheError: no group divides the heads."""
    for size in KV_GROUPS:
        if head_dim % size == 0:
            return size
    raise CacheError(
        f"heads of {head_dim} numbers cannot be quantized, in groups of "
        f"{' or '.join(map(str, KV_GROUPS))}; leave kv_bits out"
    )


def is_quantized(parts: tuple[mx.array, ...], bits: int) -> bool:
    """Whether weight, scales and biases fit each other, as `quantize` makes them."""
    weight, scales, biases = parts
    head_dim = 32 * weight.shape[-1] // bits
    groups = head_dim // next((size for size in KV_GROUPS if head_dim % size == 0), 1)
    return (
        weight.dtype == mx.uint32
        and scales.dtype == biases.dtype
        and scales.dtype in (mx.float16, mx.bfloat16)
        and scales.shape == biases.shape == (*weight.shape[:3], groups)
    )
