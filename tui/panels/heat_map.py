"""Which experts worked in which layer, counted and shaded."""

from __future__ import annotations

from collections.abc import Sequence

SHADES = " ░▒▓█"
"""From never to most often; anything above nothing has a shade that can be seen."""


class ExpertCounts:
    """How often each expert of each layer worked on a token of a reply."""

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self.n_layers = n_layers
        self.n_experts = n_experts
        self.tokens = 0
        self._counts = [[0] * n_experts for _ in range(n_layers)]

    def add(self, tokens: int, counts: Sequence[Sequence[int]]) -> None:
        """Adds up tokens. What lies outside of the model's layers and experts is left out."""
        self.tokens += tokens
        for row, more in zip(self._counts, counts, strict=False):
            for expert, n in enumerate(more[: self.n_experts]):
                row[expert] += n

    def of(self, layer: int, expert: int) -> int:
        return self._counts[layer][expert]

    def rows(self) -> list[list[int]]:
        """For each expert its counts over the layers: how the map is drawn."""
        return [list(row) for row in zip(*self._counts, strict=True)]


def heat_map(rows: Sequence[Sequence[int]], width: int, height: int) -> list[str]:
    """At most `height` lines of at most `width` cells, one shade a cell.

    Where there are more rows or columns than room, neighbours share a cell that has their mean.
    """
    cells = _pooled([_pooled_row(row, width) for row in rows], height)
    top = max((value for row in cells for value in row), default=0.0)
    return ["".join(_shade(value, top) for value in row) for row in cells]


def cell_of(index: int, n: int, room: int) -> int:
    """Where the row or column `index` of `n` is drawn in `room` cells."""
    return index if n <= room else index * room // n


def _shade(value: float, top: float) -> str:
    if value <= 0:
        return SHADES[0]
    steps = len(SHADES) - 1
    return SHADES[min(steps, 1 + int(steps * value / top - 1e-9))]


def _bins(n: int, room: int) -> list[list[int]]:
    """Neighbours that share a cell; their number differs by one at most."""
    found: list[list[int]] = [[] for _ in range(min(n, max(room, 0)))]
    if found:
        for index in range(n):
            found[cell_of(index, n, room)].append(index)
    return found


def _pooled_row(row: Sequence[int], width: int) -> list[float]:
    return [sum(row[i] for i in bin_) / len(bin_) for bin_ in _bins(len(row), width)]


def _pooled(rows: list[list[float]], height: int) -> list[list[float]]:
    return [
        [sum(column) / len(bin_) for column in zip(*(rows[i] for i in bin_), strict=True)]
        for bin_ in _bins(len(rows), height)
    ]
