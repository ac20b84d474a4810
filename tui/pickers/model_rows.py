"""What a list of models shows, as whoever knows the models tells it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len

from mlx_mistral.tui.panels.figures import bytes_text, percent_text, rate_text
from mlx_mistral.tui.visible import clipped, one_line

_FIGURES_CELLS = 45
_BAR_CELLS = 10
_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


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
    is_tight: bool = False
    """It fits, but not beside what runs now, or with little to spare."""
    decode_tps: float | None = None
    """How fast it should be."""
    detail: str = ""
    """A line about it, for whoever stops at its row."""


Report = Callable[[int, int], bool]
"""Told the bytes done and the bytes in all (0: not known); False: nobody wants the rest."""


class ModelProvider(Protocol):
    """Knows the models. Its methods may take long: they are called on threads of their own.

    Each raises MlxMistralError with one line that is shown.
    """

    def rows(self) -> Sequence[ModelRow]:
        """Those that are here and those that could be pulled, in the order to be shown."""

    def look(self, name: str) -> ModelRow:
        """One that is not here, as the Hub describes it; nothing of it is kept."""

    def pull(self, name: str, report: Report) -> None:
        """Downloads a model; ends early, keeping what is there, once `report` says False."""


def row_text(row: ModelRow, width: int) -> str:
    """A model in at most `width` cells; its name is cut first. Says all in words."""
    name_cells = max(width - _FIGURES_CELLS, 8)
    name = _short(one_line(row.name), name_cells)
    where = "here" if row.is_cached else "pull"
    size = bytes_text(row.size_bytes) if row.size_bytes is not None else "? GB"
    bits = f"{row.bits:.1f} bits" if row.bits is not None else "? bits"
    fits = _fits(row)
    speed = f"~{rate_text(row.decode_tps)} tok/s" if row.decode_tps is not None else ""
    padding = " " * (name_cells - cell_len(name))
    return clipped(
        f"{name}{padding} {where} {size:>7} {bits:>9} {fits:<9} {speed:>11}".rstrip(), width
    )


def _fits(row: ModelRow) -> str:
    if row.fits is None:
        return "fits?"
    return ("tight" if row.is_tight else "fits") if row.fits else "too large"


def _short(name: str, cells: int) -> str:
    """At most so many cells; who made it is left out first, for the end tells models apart."""
    if cell_len(name) <= cells or "/" not in name:
        return clipped(name, cells)
    return clipped(f"…/{name.rpartition('/')[2]}", cells)


def matching(rows: Iterable[ModelRow], query: str) -> list[ModelRow]:
    """Those whose names contain every word of a query, in any case.

    A repository that none of them is may be named in full, to be pulled.
    """
    words = query.lower().split()
    found = [row for row in rows if all(word in row.name.lower() for word in words)]
    name = query.strip()
    if _REPO.fullmatch(name) and all(row.name != name for row in found):
        found.append(ModelRow(name=name, is_cached=False, detail="i asks the Hub what it is"))
    return found


class Pace:
    """How far a download is and how long it will take, as a bar and in figures."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._name = name
        self._clock = clock
        self._began: tuple[float, int] | None = None

    def text(self, done: int, total: int) -> str:
        """`██████···· 45%, 12.1 GB of 26.0 GB, 81.0 MB/s, 2:51 left: name`."""
        if total <= 0:
            return f"pulling {self._name}: {bytes_text(done)}"
        now = self._clock()
        if self._began is None:
            # What was here before says nothing about the speed.
            self._began = (now, done)
        filled = _BAR_CELLS * min(done, total) // total
        bar = "█" * filled + "·" * (_BAR_CELLS - filled)
        parts = [f"{bar} {percent_text(min(done, total), total)}"]
        parts.append(f"{bytes_text(done)} of {bytes_text(total)}")
        seconds, moved = now - self._began[0], done - self._began[1]
        if seconds >= 1 and moved > 0:
            left = round((total - done) * seconds / moved)
            parts.append(f"{bytes_text(int(moved / seconds))}/s")
            parts.append(f"{_clock_time(left)} left")
        return f"{', '.join(parts)}: {self._name}"


def _clock_time(seconds: int) -> str:
    """0:17, 12:03, 1:02:03."""
    minutes, rest = divmod(max(0, seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
