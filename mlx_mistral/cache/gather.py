"""Texts of a batch come and go: caches of chosen rows of other caches."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from mlx_mistral.errors import CacheError

from .base import KVCache
from .factory import make_cache
from .fixed import STEP, round_up

Chosen = tuple[KVCache, Sequence[int]]
"""A cache, and which of its rows; one may be chosen several times."""


def gather_rows(chosen: Sequence[Chosen]) -> KVCache:
    """One cache of the chosen rows, in this order; the others stay as they are.

    All texts end at the same column, so shorter ones are padded on the left, as far as the
    longest of them asks for. With rows of 3 and 5 tokens, and one of 4 that joins:

        . . a a a        . . a a a
        b b b b b   +    b b b b b
        c c c c          . c c c c

    A ring keeps at most W tokens of each, and is laid out anew for the new columns.
    Raises: CacheError: no row is chosen, or caches are empty or of different kinds.
    """
    chosen = [(one, rows) for one, rows in chosen if rows]
    kinds = {(one.window, one.limit, one.kv_bits) for one, _ in chosen}
    if len(kinds) != 1 or any(one.empty() for one, _ in chosen):
        raise CacheError("caches of no text or of several kinds cannot be one; read the texts anew")
    window, limit, kv_bits = kinds.pop()
    lengths = [length for one, rows in chosen for length in _lengths(one, rows)]
    offset = max(lengths)
    padding = [offset - length for length in lengths]
    cache = make_cache([window], context=limit, kv_bits=kv_bits, left_padding=padding)[0]
    n_held = offset if window is None else min(offset, window)
    capacity = n_held if window is not None else min(round_up(offset + 1), limit or offset + STEP)
    parts = zip(*([(part, rows) for part in one.held()] for one, rows in chosen), strict=True)
    cache.load(tuple(_stacked(part, n_held, capacity) for part in parts), offset)
    return cache


def _lengths(cache: KVCache, rows: Sequence[int]) -> list[int]:
    padding = cache.left_padding
    return [cache.offset - (padding[row] if padding else 0) for row in rows]


def _stacked(chosen: Sequence[tuple[mx.array, Sequence[int]]], n: int, capacity: int) -> mx.array:
    """The last n columns of the chosen rows, in one buffer with room for more.

    Shapes: (B, K, S, D) of any B and S -> (sum of rows, K, capacity, D).
    """
    first = chosen[0][0]
    n_rows = sum(len(rows) for _, rows in chosen)
    buffer = mx.zeros((n_rows, first.shape[1], capacity, first.shape[3]), first.dtype)
    row = 0
    for part, rows in chosen:
        part = part[..., max(0, part.shape[2] - n) :, :]
        if list(rows) != list(range(part.shape[0])):
            part = part[mx.array(list(rows))]
        start = mx.array([row, n - part.shape[2]])
        buffer = mx.slice_update(buffer, part, start, axes=(0, 2))
        row += len(rows)
    return buffer
