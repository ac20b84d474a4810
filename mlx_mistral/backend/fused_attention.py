"""The attention kernels of MLX's Metal backend: which shapes they support. No MLX is loaded.

Source: mlx 0.32, mlx/backend/metal/scaled_dot_product_attention.cpp.
"""

from __future__ import annotations

from typing import Literal

MaskKind = Literal["none", "causal", "array"]

VECTOR_QUERIES = 8
"""Queries up to which the vector kernel is used."""
VECTOR_HEAD_DIMS = frozenset({64, 96, 128, 256})
VECTOR_ROWS = 32
"""Most rows of the vector kernel: queries x query heads of a key head."""
FULL_HEAD_DIMS = frozenset({64, 72, 80, 96, 128})


def fused_attention(
    *, head_dim: int, n_queries: int, n_keys: int, gqa_factor: int, mask: MaskKind
) -> bool:
    """Return whether Metal computes attention without writing scores to memory.

    The rule of `has_fused_kernel` and `use_fallback`. 192 is missing in both sets, and 256 in the
    one of many queries: kernels exist, but MLX prefers the fallback. On chips with matrix units
    for tensors (M5) 1024 causal queries of 256 are fused all the same; the rule leaves that out.

    Args:
        gqa_factor: query heads of a key head.
    """
    if n_queries > VECTOR_QUERIES:
        return head_dim in FULL_HEAD_DIMS and (mask != "causal" or n_queries <= n_keys)
    return (
        head_dim in VECTOR_HEAD_DIMS
        and n_queries <= n_keys
        and n_queries * gqa_factor <= VECTOR_ROWS
    )


def partial_blocks(n_keys: int) -> int:
    """Return the most blocks of keys that the vector kernel reduces in its first pass.

    The rule of `sdpa_vector_2pass`; the largest of all chips, since Max and Ultra differ.
    """
    if n_keys <= 8192:
        return 128
    if n_keys < 16384:
        return 256
    return 512 if n_keys < 65536 else 1024
