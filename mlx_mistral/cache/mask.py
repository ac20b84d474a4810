"""Who sees whom: the causal, windowed and padded masks of attention.

A window of W means that a token sees W keys, itself included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import mlx.core as mx


@dataclass(frozen=True, slots=True)
class Band:
    """The windowed causal mask of a text longer than the window, without its (T, S) array."""

    window: int


Mask = mx.array | Band | Literal["causal"] | None
"""Boolean array (True: visible), a band, the kernel's own causal mode, or all visible."""


def attention_mask(
    n_new: int, n_past: int, window: int | None = None, *, return_array: bool = False
) -> Mask:
    """The mask of n_new tokens over n_past keys before them and their own.

    The past holds what the first new token may see at most, so one token alone sees all.
    """
    if return_array:
        columns = mx.arange(n_past + n_new)
        return visible(columns[n_past:], columns, window)
    if n_new == 1:
        return None
    if window is None or n_past + n_new <= window:
        return "causal"
    return Band(window)


def visible(queries: mx.array, keys: mx.array, window: int | None) -> mx.array:
    """Shapes: query columns (T,), key columns (S,) -> (T, S) booleans."""
    rows, columns = queries[:, None], keys[None, :]
    seen = columns <= rows
    return seen if window is None else seen & (columns > rows - window)


def padded_mask(
    queries: mx.array, keys: mx.array, left_padding: mx.array, window: int | None
) -> mx.array:
    """The mask of a batch whose rows begin with padding of different lengths.

    A padding token still sees itself, so that no row of scores is empty.
    Shapes: query columns (T,), key columns (S,), left_padding (B,) -> (B, 1, T, S).
    """
    real = keys[None, :] >= left_padding[:, None]
    itself = queries[:, None] == keys[None, :]
    return ((visible(queries, keys, window) & real[:, None, :]) | itself)[:, None]
