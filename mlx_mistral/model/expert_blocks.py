"""Tokens of a mixture of experts in blocks, each of one expert, so that a block is one product.

With 3 experts, blocks of 2 rows and the choices 2 0 2 0 0, there are at most 4 blocks:

    block     0      1      2      3
    expert    0      0      2      2 (empty)
    rows      1 3    4 -    0 2    - -

How many tokens an expert gets is never asked of the device: there are always as many blocks as
the least favourable choice needs, and rows that nobody wants are computed and not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

FEWEST_ROWS, MOST_ROWS = 4, 64
SPARE = 8
"""At most one row in so many is for nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """Where the n routed tokens stand in blocks of `rows`."""

    experts: mx.array
    """Of each block. Shapes: (blocks,) ints."""
    tokens: mx.array
    """Which routed token stands in each row; the first one where none does. (blocks, rows)."""
    places: mx.array
    """In which row, counted through all blocks, each routed token stands. (n,)."""


def block_rows(n: int, num_experts: int) -> int:
    """Rows of a block for n routed tokens, a power of two; 0: too few to make blocks."""
    rows = MOST_ROWS
    while rows * num_experts * SPARE > n:
        rows //= 2
    return rows if rows >= FEWEST_ROWS else 0


def arrange(chosen: mx.array, num_experts: int, rows: int) -> Blocks:
    """Blocks of the experts' tokens, in the order in which they came. Shapes: (n,) ints."""
    n = chosen.size
    n_blocks = (n + num_experts * (rows - 1)) // rows
    so_far = mx.cumsum(chosen[:, None] == mx.arange(num_experts), axis=0)  # (n, E)
    blocks_each = (so_far[-1] + (rows - 1)) // rows
    ends = mx.cumsum(blocks_each)
    rank = mx.take_along_axis(so_far, chosen[:, None], axis=1)[:, 0] - 1
    places = (ends - blocks_each)[chosen] * rows + rank
    tokens = mx.zeros((n_blocks * rows,), mx.int32)
    tokens[places] = mx.arange(n)
    before = (ends <= mx.arange(n_blocks)[:, None]).sum(axis=1)
    return Blocks(
        experts=mx.minimum(before, num_experts - 1).astype(mx.uint32),
        tokens=tokens.reshape(n_blocks, rows),
        places=places,
    )
