"""Windowed attention over a text longer than its window.

Queries are cut into blocks of W. A block sees only the keys of its own columns and of
the W columns before them, so work and memory grow with T x W, not with T x S. Fewer than W
queries are one block as they are: filled up to W, they would cost W / T times as much.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.cache.mask import visible


def banded_attention(q: mx.array, k: mx.array, v: mx.array, scale: float, window: int) -> mx.array:
    """Attention where the query of column c sees the keys of columns c - W + 1 to c.

    The last T of the S key columns are the queries' own; of those before them, at most
    W - 1 may be given.
    Shapes: (B, H, T, D), (B, K, S, D) twice -> (B, H, T, D).
    """
    batch, _, n_new, _ = q.shape
    n_past = k.shape[2] - n_new
    if n_new <= window:
        columns = mx.arange(n_past + n_new)
        band = visible(columns[n_past:], columns, window)
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=band)
    n_blocks = -(-n_new // window)
    missing = n_blocks * window - n_new
    q = mx.pad(q, [(0, 0), (0, 0), (0, missing), (0, 0)])
    k, v = (mx.pad(x, [(0, 0), (0, 0), (window - n_past, missing), (0, 0)]) for x in (k, v))
    out = mx.fast.scaled_dot_product_attention(
        _to_batch(_blocks(q, window)),
        _to_batch(_overlapping(_blocks(k, window))),
        _to_batch(_overlapping(_blocks(v, window))),
        scale=scale,
        mask=_mask(batch, n_blocks, n_past, window),
    )
    out = out.reshape(batch, n_blocks, *out.shape[1:]).swapaxes(1, 2)
    return out.flatten(2, 3)[:, :, :n_new]


def _blocks(x: mx.array, window: int) -> mx.array:
    """(B, heads, n * W, D) -> (B, heads, n, W, D)."""
    return mx.unflatten(x, 2, (-1, window))


def _overlapping(blocks: mx.array) -> mx.array:
    """Each block with the one before it: (B, K, n + 1, W, D) -> (B, K, n, 2 W, D)."""
    return mx.concatenate([blocks[:, :, :-1], blocks[:, :, 1:]], axis=3)


def _to_batch(blocks: mx.array) -> mx.array:
    """(B, heads, n, W, D) -> (B * n, heads, W, D)."""
    return blocks.swapaxes(1, 2).flatten(0, 1)


def _mask(batch: int, n_blocks: int, n_past: int, window: int) -> mx.array:
    """(B * n, 1, W, 2 W). Columns before the given past are padding and hidden."""
    band = visible(mx.arange(window, 2 * window), mx.arange(2 * window), window)
    columns = mx.arange(n_blocks)[:, None] * window + mx.arange(2 * window)
    given = columns >= window - n_past  # (n, 2 W)
    mask = band[None] & given[:, None]
    mask = mx.broadcast_to(mask[None], (batch, n_blocks, window, 2 * window))
    return mask.flatten(0, 1)[:, None]
