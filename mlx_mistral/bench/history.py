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
    """Makes new caches hold n tokens; a ring gets the last of them, each in its slot."""
    for layer, one in enumerate(cache):
        pair = drawn_pair(layer, n, n_kv_heads, head_dim, dtype)
        if one.window is not None and n > one.window:
            window, first = one.window, n % one.window
            # Column c lives in slot c mod W: the last W columns, turned by that much.
            keys, values = (mx.roll(part[..., n - window :, :], first, 2) for part in pair)
            pair = keys, values
        mx.eval(pair)
        one.load(pair, n)
        mx.clear_cache()
