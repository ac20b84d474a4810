"""The tokens of a reply, marked by how sure the model was of each, with a cursor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from mlx_mistral.live.events import Piece

from .token_lines import TokenLines, level

_MARKS = {
    "sure": Style(),
    "likely": Style(underline=True),
    "unsure": Style(underline=True, bold=True),
    "unlikely": Style(underline=True, bold=True, italic=True),
    "unknown": Style(),
}
"""What tells the levels apart without colour."""


class TokenText(ScrollView, can_focus=True):
    """Only the lines in sight are drawn, so a reply may be as long as it likes."""

    DEFAULT_CSS = """
    TokenText { height: 1fr; overflow-x: hidden; }
    TokenText > .token--likely { color: $text-success; }
    TokenText > .token--unsure { color: $text-warning; }
    TokenText > .token--unlikely { color: $text-error; }
    """
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "token--sure", "token--likely", "token--unsure", "token--unlikely", "token--unknown",
    }  # fmt: skip
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "token(-1)", "Token", key_display="←→"),
        Binding("right", "token(1)", "Token after", show=False),
        Binding("up", "line(-1)", "Line up", show=False),
        Binding("down", "line(1)", "Line down", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
        Binding("home", "edge(False)", "First token", show=False),
        Binding("end", "edge(True)", "Last token", show=False),
        Binding("enter", "choose", "Alternatives"),
    ]

    cursor: reactive[int] = reactive(0)
    """The index of a token."""

    class Moved(Message):
        """The cursor stands on another token."""

        def __init__(self, index: int) -> None:
            self.index = index
            super().__init__()

    class Chosen(Message):
        """Enter was pressed on a token."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.pieces: list[Piece] = []
        self._lines = TokenLines(80)
        self._column: int | None = None

    def replace(self, pieces: Iterable[Piece]) -> None:
        """Shows another reply, from its beginning."""
        self.pieces = list(pieces)
        self._column = None
        self._lay_out()
        self.scroll_to(y=0, animate=False)
        self.cursor = 0
        self.post_message(self.Moved(0))

    def add(self, piece: Piece) -> None:
        """One more token; what is laid out already stays as it is."""
        before = len(self._lines.lines)
        self.pieces.append(piece)
        self._lines.add(piece.text)
        if len(self._lines.lines) != before:
            self.virtual_size = Size(self._lines.width, len(self._lines.lines))
        for row in range(self._lines.row_of(len(self.pieces) - 1), len(self._lines.lines)):
            self._refresh_row(row)

    def on_resize(self, event: events.Resize) -> None:
        if self._room() != self._lines.width:
            self._lay_out()
            self._follow()

    def validate_cursor(self, cursor: int) -> int:
        return min(max(cursor, 0), max(len(self.pieces) - 1, 0))

    def watch_cursor(self, old: int, new: int) -> None:
        for index in (old, new):
            if index < len(self._lines):
                row = self._lines.row_of(index)
                while row < len(self._lines.lines) and self._holds(row, index):
                    self._refresh_row(row)
                    row += 1
        self._follow()
        self.post_message(self.Moved(new))

    def render_line(self, y: int) -> Strip:
        row = y + self.scroll_offset.y
        base = self.rich_style
        if row >= len(self._lines.lines):
            return Strip.blank(self.size.width, base)
        segments = [
            Segment(span.text, base + self._style(span.token)) for span in self._lines.lines[row]
        ]
        return Strip(segments).adjust_cell_length(self.size.width, base)

    def action_token(self, by: int) -> None:
        self._column = None
        self.cursor += by

    def action_line(self, by: int) -> None:
        if not self.pieces:
            return
        if self._column is None:
            self._column = self._lines.column_of(self.cursor)
        row = self._lines.row_of(self.cursor)
        if by > 0:
            while row + 1 < len(self._lines.lines) and self._holds(row + 1, self.cursor):
                row += 1
        target = min(max(row + by, 0), len(self._lines.lines) - 1)
        self.cursor = self._lines.nearest(target, self._column)

    def action_page(self, by: int) -> None:
        self.action_line(by * max(self.size.height - 1, 1))

    def action_edge(self, last: bool) -> None:
        self._column = None
        self.cursor = len(self.pieces) - 1 if last else 0

    def action_choose(self) -> None:
        if self.pieces:
            self.post_message(self.Chosen())

    def _style(self, index: int) -> Style:
        name = level(self.pieces[index].probability)
        style = self.get_component_rich_style(f"token--{name}", partial=True) + _MARKS[name]
        return style + Style(reverse=True) if index == self.cursor else style

    def _holds(self, row: int, index: int) -> bool:
        return any(span.token == index for span in self._lines.lines[row])

    def _room(self) -> int:
        return max(self.scrollable_content_region.width, 2)

    def _lay_out(self) -> None:
        self._lines = TokenLines(self._room())
        for piece in self.pieces:
            self._lines.add(piece.text)
        self.virtual_size = Size(self._lines.width, len(self._lines.lines))
        self.refresh()

    def _refresh_row(self, row: int) -> None:
        y = row - self.scroll_offset.y
        if 0 <= y < self.size.height:
            self.refresh(Region(0, y, self.size.width, 1))

    def _follow(self) -> None:
        if self.cursor < len(self._lines):
            row = self._lines.row_of(self.cursor)
            self.scroll_to_region(Region(0, row, 1, 1), animate=False, force=True)
