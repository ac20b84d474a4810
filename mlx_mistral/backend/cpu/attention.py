"""Attention of one token per sequence where no kernel is fused."""

from __future__ import annotations

import mlx.core as mx


def decode_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | None
) -> mx.array:
    """Return the attention of one query per head, reading each key once for its H / K queries.

    Shapes: q (B, H, 1, D), k and v (B, K, S, D), mask booleans of any shape that broadcasts to
    (B, 1, 1, S) -> (B, H, 1, D).
    """
    batch, _, _, head_dim = q.shape
    queries = q.reshape(batch, k.shape[1], -1, head_dim)  # (B, K, H / K, D)
    hidden = mx.array(0.0) if mask is None else mx.where(mask, 0.0, -mx.inf)
    scores = mx.addmm(hidden.astype(q.dtype), queries, k.swapaxes(-1, -2), alpha=scale)
    return (mx.softmax(scores, axis=-1, precise=True) @ v).reshape(q.shape)
