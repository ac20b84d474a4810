"""A calibration text cut into texts of one length, those that branches walk on come first."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_mistral.errors import ConversionError

FEWEST_TOKENS = 2
"""Of a calibration text: below, nothing is predicted from anything."""


def sampled(ids: Sequence[int], most: int, length: int) -> list[int]:
    """Pieces of `length` from all over a text that is longer than `most` tokens, in its order."""
    if len(ids) <= most:
        return list(ids)
    starts = np.linspace(0, len(ids) - length, max(1, most // length)).round().astype(int)
    return [token for start in starts for token in ids[start : start + length]]


def cut(ids: Sequence[int], bos_id: int | None, length: int) -> mx.array:
    """Whole texts of `length` tokens, `bos_id` before each; what is left at the end is dropped.

    Shapes: -> (B, length) ints; one shorter text where there are too few ids.
    Raises: ConversionError: next to no ids.
    """
    start = [] if bos_id is None else [bos_id]
    body = min(length - len(start), len(ids))
    if body + len(start) < FEWEST_TOKENS or body < 1:
        raise ConversionError(
            f"the calibration text has {len(ids)} tokens; give some thousands of a text like "
            "those that the model will read"
        )
    texts = [[*start, *ids[first : first + body]] for first in range(0, len(ids) - body + 1, body)]
    return mx.array(np.array(texts, dtype=np.int32))


def spread_first(tokens: mx.array, n: int) -> mx.array:
    """The same texts, `n` from all over the calibration text before the others."""
    chosen = np.linspace(0, tokens.shape[0] - 1, n).round().astype(int)
    others = np.setdiff1d(np.arange(tokens.shape[0]), chosen)
    return tokens[mx.array(np.concatenate([chosen, others]))]
