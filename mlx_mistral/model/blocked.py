"""Attention of many tokens, a block of queries at a time.

A block is given only the keys between the first and the last that any of its queries sees, so
work and memory grow with what is visible, not with T x S: with a window, T x W; without one, half
of T x T where no kernel is fused and scores are written out.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.cache.mask import attention_mask, visible

UNFUSED_ROWS = 128
"""Queries of a block where scores are written out: a block's fit the processor's cache."""
FUSED_ROWS = 512
"""The same where they are not: few launches, and few keys that most of a block does not see."""


def blocked_attention(
    q: mx.array, k: mx.array, v: mx.array, scale: float, window: int | None, rows: int
) -> mx.array:
    """Attention of T queries, `rows` at a time, over the S keys up to their own.

    window: how many keys a query sees, its own included; None: all before it.
    Shapes: (B, H, T, D), (B, K, S, D) twice -> (B, H, T, D).
    """
    n_new = q.shape[2]
    n_past = k.shape[2] - n_new
    bands: dict[tuple[int, int], mx.array] = {}
    done = []
    for start in range(0, n_new, rows):
        end = n_past + min(start + rows, n_new)
        first = 0 if window is None else max(0, n_past + start - window + 1)
        asking = q[:, :, start : start + rows]
        n_asking, n_seen = asking.shape[2], end - first
        mask = attention_mask(n_asking, n_seen - n_asking, window)
        if not isinstance(mask, str | None):
            # The same for all blocks of this form: columns count from the first key.
            mask = bands.setdefault((n_asking, n_seen), _band(n_asking, n_seen, window))
        seen = (x[:, :, first:end] for x in (k, v))
        done.append(mx.fast.scaled_dot_product_attention(asking, *seen, scale=scale, mask=mask))
    return done[0] if len(done) == 1 else mx.concatenate(done, axis=2)


def _band(n_new: int, n_seen: int, window: int | None) -> mx.array:
    """(T, S) booleans."""
    columns = mx.arange(n_seen)
    return visible(columns[n_seen - n_new :], columns, window)
