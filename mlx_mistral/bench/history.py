"""Keys and values of a text that was never read: speed does not depend on what they are."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_mistral.cache import KVCache

Pair = tuple[mx.array, mx.array]


def drawn_pair(layer: int, n: int, n_kv_heads: int, head_dim: int, dtype: mx.Dtype) -> Pair:
    """One layer's keys and values of n tokens. Shapes: (1, K, n, D) twice."""
    shape = (1, n_kv_heads, n, head_dim)
    keys, values = (
        mx.random.normal(shape, key=mx.random.key(2 * layer + part)).astype(dtype)
        for part in (0, 1)
    )
    return keys, values


def load_drawn(
    cache: Sequence[KVCache], n: int, n_kv_heads: int, head_dim: int, dtype: mx.Dtype
) -> None:
    """Makes new caches hold n tokens; one with a window gets the last of them."""
    for layer, one in enumerate(cache):
        keys, values = drawn_pair(layer, n, n_kv_heads, head_dim, dtype)
        held = n if one.window is None else min(n, one.window)
        pair = keys[..., n - held :, :], values[..., n - held :, :]
        mx.eval(pair)
        one.load(pair, n)
        mx.clear_cache()
