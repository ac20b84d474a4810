"""What a list of models shows, as whoever knows the models tells it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len

from mlx_mistral.tui.panels.figures import bytes_text, percent_text, rate_text
from mlx_mistral.tui.visible import clipped, one_line

_FIGURES_CELLS = 47
_BAR_CELLS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """A model that is here or could be pulled. None: not known."""

    name: str
    is_cached: bool
    size_bytes: int | None = None
    bits: float | None = None
    """Of a weight, on average."""
    fits: bool | None = None
    """This machine at the wanted context."""
    decode_tps: float | None = None
    """How fast it should be."""


Report = Callable[[int, int], bool]
"""Told the bytes done and the bytes in all (0: not known); False: nobody wants the rest."""


class ModelProvider(Protocol):
    """Knows the models. Both methods may take long: they are called on threads of their own.

    Either raises MlxMistralError with one line that is shown.
    """

    def rows(self) -> Sequence[ModelRow]:
        """Those that are here and those that could be pulled, in the order to be shown."""

    def pull(self, name: str, report: Report) -> None:
        """Downloads a model; ends early, keeping what is there, once `report` says False."""


def row_text(row: ModelRow, width: int) -> str:
    """A model in at most `width` cells; its name is cut first. Says all in words."""
    name_cells = max(width - _FIGURES_CELLS, 8)
    name = clipped(one_line(row.name), name_cells)
    where = "here" if row.is_cached else "pull"
    size = bytes_text(row.size_bytes) if row.size_bytes is not None else "? GB"
    bits = f"{row.bits:.1f} bits" if row.bits is not None else "? bits"
    fits = "fit unknown" if row.fits is None else "fits" if row.fits else "too large"
    speed = f"~{rate_text(row.decode_tps)} tok/s" if row.decode_tps is not None else ""
    padding = " " * (name_cells - cell_len(name))
    return clipped(
        f"{name}{padding} {where} {size:>7} {bits:>9} {fits:<11} {speed:>11}".rstrip(), width
    )


def matching(rows: Iterable[ModelRow], query: str) -> list[ModelRow]:
    """Those whose names contain every word of a query, in any case."""
    words = query.lower().split()
    return [row for row in rows if all(word in row.name.lower() for word in words)]


def bar_text(name: str, done: int, total: int) -> str:
    """How far a download is, as a bar and in figures."""
    if total <= 0:
        return f"pulling {name}: {bytes_text(done)}"
    filled = _BAR_CELLS * min(done, total) // total
    bar = "█" * filled + "·" * (_BAR_CELLS - filled)
    far = f"{percent_text(done, total)} of {bytes_text(total)}"
    return f"{bar} {far}: {name}"
