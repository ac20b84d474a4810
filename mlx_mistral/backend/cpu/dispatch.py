"""Dispatch of tokens to experts in larger products, for unquantized experts on the CPU device.

Tiles: rows of one expert are packed into tiles of equal size, so that a tile is one product. With
3 experts, tiles of 2 rows and the expert ids 2 0 2 0 0, there are at most 4 tiles:

    tile      0      1      2      3
    expert    0      0      2      2 (padding)
    rows      1 3    4 -    0 2    - -

The device is never asked how many tokens an expert gets: there are always as many tiles as the
least favourable routing needs, and rows of padding are computed and dropped.
Source of the idea: MegaBlocks, arXiv:2211.15841, section 5.
"""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.dispatch import Dispatch, RunExperts, run_one_expert

MIN_TILE_ROWS, MAX_TILE_ROWS = 4, 64
MAX_PADDING = 8
"""At most one row in 8 is padding."""
DENSE_FROM = 2
"""Routed rows per expert from which a fast BLAS gives all tokens to every expert in less time than
each token to its own: 0.7x with eight sequences and two of eight experts."""


def tile_rows(n_routed: int, num_experts: int) -> int:
    """Return the rows of a tile for n routed rows, a power of two; 0: too few to make tiles."""
    rows = MAX_TILE_ROWS
    while rows * num_experts * MAX_PADDING > n_routed:
        rows //= 2
    return rows if rows >= MIN_TILE_ROWS else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertTiles:
    """The position of n routed rows in tiles of `rows`."""

    experts: mx.array
    """Expert of each tile. Shapes: (tiles,) ints."""
    sources: mx.array
    """Routed row of each tile row; 0 for padding. Shapes: (tiles, rows)."""
    targets: mx.array
    """Tile row of each routed row, counted through all tiles. Shapes: (n,)."""


def pack_tokens(expert_ids: mx.array, num_experts: int, rows: int) -> ExpertTiles:
    """Pack routed rows into tiles, in the order in which they come. Shapes: (n,) ints."""
    n = expert_ids.size
    n_tiles = (n + num_experts * (rows - 1)) // rows
    so_far = mx.cumsum(expert_ids[:, None] == mx.arange(num_experts), axis=0)  # (n, E)
    tiles_per_expert = (so_far[-1] + (rows - 1)) // rows
    ends = mx.cumsum(tiles_per_expert)
    rank = mx.take_along_axis(so_far, expert_ids[:, None], axis=1)[:, 0] - 1
    targets = (ends - tiles_per_expert)[expert_ids] * rows + rank
    sources = mx.zeros((n_tiles * rows,), mx.int32)
    sources[targets] = mx.arange(n)
    before = (ends <= mx.arange(n_tiles)[:, None]).sum(axis=1)
    return ExpertTiles(
        experts=mx.minimum(before, num_experts - 1).astype(mx.uint32),
        sources=sources.reshape(n_tiles, rows),
        targets=targets,
    )


class TiledDispatch(Dispatch):
    """A product is a tile of rows of one expert."""

    is_sorted = True

    def __init__(self, num_experts: int, rows: int) -> None:
        self._num_experts, self._rows = num_experts, rows

    def run(self, x: mx.array, expert_ids: mx.array, experts: RunExperts) -> mx.array:
        tiles = pack_tokens(expert_ids.flatten(), self._num_experts, self._rows)
        rows = x.flatten(0, -2)[tiles.sources // expert_ids.shape[-1]]  # (tiles, rows, dim)
        out = experts(rows, tiles.experts, True).flatten(0, 1)
        return out[tiles.targets].reshape(*expert_ids.shape, -1)

    def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
        n, rows = len(token_rows), self._rows
        padded = np.resize(token_rows, (-(-n // rows), rows))
        return run_one_expert(x[mx.array(padded)], expert, True)[:n]


class DenseDispatch(Dispatch):
    """A product is all tokens through one expert; results of experts not chosen are dropped."""

    is_sorted = True

    def __init__(self, num_experts: int) -> None:
        self._num_experts = num_experts

    def run(self, x: mx.array, expert_ids: mx.array, experts: RunExperts) -> mx.array:
        rows = x.flatten(0, -2)  # (N, dim)
        out = experts(rows[None], mx.arange(self._num_experts), True)  # (E, N, dim)
        ids = expert_ids.flatten(0, -2)
        return out[ids, mx.arange(rows.shape[0])[:, None]].reshape(*expert_ids.shape, -1)

    def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
        return run_one_expert(x[None], expert, True)[mx.array(token_rows)]
