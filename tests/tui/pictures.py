"""Pictures of a window as text, compared with those that were accepted."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Container, Iterable
from itertools import groupby
from pathlib import Path

from chatting import LARGE, SMALL, Window
from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Region
from textual.screen import Screen
from textual.widgets import Input, TextArea

FOLDER = Path(__file__).parent / "snapshots"
ACCEPT = "ACCEPT_SNAPSHOTS"
"""Set to 1, the environment variable has every picture written instead of compared."""


async def picture(w: Window, name: str, *sizes: tuple[int, int]) -> None:
    """Compares what the window shows in both sizes, or in those that are named.

    Raises: AssertionError: a screen has changed.
    """
    for width, height in sizes or (SMALL, LARGE):
        await w.pilot.resize_terminal(width, height)
        await still(w)
        drawn = draw(w.app.screen)
        path = FOLDER / f"{name}_{width}x{height}.txt"
        if os.environ.get(ACCEPT) == "1":
            path.write_text(drawn, encoding="utf-8")
            continue
        accepted = path.read_text(encoding="utf-8") if path.exists() else ""
        assert drawn.splitlines() == accepted.splitlines(), (
            f"{path.name} shows something else; look at it, then {ACCEPT}=1 pytest {__file__}"
        )


async def still(w: Window) -> None:
    """Lets the window work until nothing is under way and it draws the same again and again."""
    for kind in (Input, TextArea):
        for widget in w.app.screen.query(kind):
            widget.cursor_blink = False
    before: str | None = None

    def unchanged() -> bool:
        nonlocal before
        now = draw(w.app.screen)
        unchanged, before = now == before, now
        return unchanged and all(worker.is_finished for worker in w.app.workers)

    for _ in range(3):
        drawn = asyncio.Event()  # what a change of size asks for is asked for by then
        w.app.screen.call_after_refresh(drawn.set)
        await drawn.wait()
        await w.until(unchanged)


def draw(screen: Screen[object]) -> str:
    """The letters; then, for each row that has several, its backgrounds.

    A background is a letter by its order on the screen, so another shade of the theme is no
    change here; `!` is a cursor, drawn the other way round. Scroll bars, which are the library's,
    are left out.
    """
    names: dict[object, str] = {}
    letters: list[str] = []
    marks: list[str] = []
    bars = _scroll_bars(screen)
    for y, strip in enumerate(screen._compositor.render_strips(screen.app.size)):
        hidden = {x for bar in bars if bar.y <= y < bar.bottom for x in bar.column_range}
        letters.append(_letters(strip, hidden).rstrip())
        marks.append(_backgrounds(strip, hidden, names))
    focus = type(screen.focused).__name__
    return "\n".join([*letters, "", f"focus: {focus}", *_grouped(marks), ""])


def _scroll_bars(screen: Screen[object]) -> list[Region]:
    widgets = [widget for widget in screen.query("*") if widget.show_vertical_scrollbar]
    return [widget.vertical_scrollbar.region for widget in widgets if widget.is_on_screen]


def _letters(strip: Iterable[Segment], hidden: Container[int]) -> str:
    found, column = [], 0
    for segment in strip:
        for letter in segment.text:
            found.append(" " if column in hidden else letter)
            column += cell_len(letter)
    return "".join(found)


def _backgrounds(strip: Iterable[Segment], hidden: Container[int], names: dict[object, str]) -> str:
    cells: list[str] = []
    for segment in strip:
        style = segment.style
        if style is not None and style.reverse:
            name = "!"
        else:
            colour = style.bgcolor if style is not None else None
            name = names.setdefault(colour, chr(ord("a") + len(names)))
        cells += [" " if len(cells) in hidden else name] * segment.cell_length
    runs = [(name, len(list(run))) for name, run in groupby(cells) if name != " "]
    return " ".join(f"{name}{n}" for name, n in runs) if len(runs) > 1 else ""


def _grouped(marks: Iterable[str]) -> list[str]:
    """Rows that are marked alike share a line."""
    lines = []
    for mark, rows in groupby(enumerate(marks, start=1), key=lambda row: row[1]):
        numbers = [number for number, _ in rows]
        first, last = numbers[0], numbers[-1]
        if mark:
            lines.append(f"{first if first == last else f'{first}-{last}'}: {mark}")
    return lines
