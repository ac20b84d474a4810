"""Causal attention of many tokens, one chunk of queries at a time.

A chunk attends to the keys between the first and the last that any of its queries sees. Work and
memory follow what is visible instead of T x S: T x W with a window of W, and half of T x T without
one where no kernel is fused and scores are written to memory.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.cache.mask import attention_mask, visible


def chunked_attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, window: int | None, query_chunk: int
) -> mx.array:
    """Return the attention of T queries to the S keys up to their own.

    Args:
        window: keys that a query sees, its own included; None: all before it.
        query_chunk: queries of a chunk.
    Shapes: q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).
    """
    n_new = q.shape[2]
    n_past = k.shape[2] - n_new
    masks: dict[tuple[int, int], mx.array] = {}
    outputs = []
    for start in range(0, n_new, query_chunk):
        end = n_past + min(start + query_chunk, n_new)
        first = 0 if window is None else max(0, n_past + start - window + 1)
        queries = q[:, :, start : start + query_chunk]
        n_queries, n_visible = queries.shape[2], end - first
        mask = attention_mask(n_queries, n_visible - n_queries, window)
        if not isinstance(mask, str | None):
            # Chunks of equal shape share a mask: columns count from the chunk's first key.
            mask = masks.setdefault(
                (n_queries, n_visible), _window_mask(n_queries, n_visible, window)
            )
        keys, values = k[:, :, first:end], v[:, :, first:end]
        outputs.append(
            mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)
        )
    return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=2)


def _window_mask(n_queries: int, n_visible: int, window: int | None) -> mx.array:
    """Shapes: -> (T, S) booleans."""
    columns = mx.arange(n_visible)
    return visible(columns[n_visible - n_queries :], columns, window)
