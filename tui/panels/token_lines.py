"""Tokens laid out in lines, as they would be read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from rich.cells import cell_len

from mlx_mistral.tui.visible import spelled_out, visible

LEVELS = (("sure", 0.9), ("likely", 0.5), ("unsure", 0.2), ("unlikely", 0.0))
"""Names of probabilities with the least of each, the highest first."""


def level(probability: float | None) -> str:
    """How sure a model was of a token, in a word; `unknown` where nobody watched."""
    if probability is None:
        return "unknown"
    return next((name for name, least in LEVELS if probability >= least), LEVELS[-1][0])


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a line: a token or, where a line ended within it, some of one."""

    token: int
    text: str
    width: int
    """Cells."""


class TokenLines:
    """Lines that grow by a token at a time, at a cost that does not grow with them."""

    def __init__(self, width: int) -> None:
        self.width = max(width, 2)
        self.lines: list[list[Span]] = [[]]
        self._used = 0
        self._rows: list[int] = []

    def add(self, text: str) -> None:
        """One more token. A line of its own follows each token that ends one."""
        index = len(self._rows)
        shown = visible(text)
        if not cell_len(shown):
            shown = spelled_out(text) or "∅"
        needed = cell_len(shown)
        if self._used and self._used + needed > self.width:
            self._break()
        self._rows.append(len(self.lines) - 1)
        if needed <= self.width:
            self._put(index, shown, needed)
        else:
            self._put_long(index, shown)
        if text.endswith("\n"):
            self._break()

    def row_of(self, token: int) -> int:
        """The line on which a token begins."""
        return self._rows[token]

    def __len__(self) -> int:
        return len(self._rows)

    def first_on(self, row: int) -> int:
        """The first token that begins on a line, or the one that runs through it."""
        at = bisect_right(self._rows, row - 1)
        return at if at < len(self._rows) and self._rows[at] == row else max(at - 1, 0)

    def nearest(self, row: int, column: int) -> int:
        """The token at a cell of a line, or the last one of that line."""
        row = min(max(row, 0), len(self.lines) - 1)
        if not self.lines[row]:
            return self.first_on(row)
        start = 0
        for span in self.lines[row]:
            start += span.width
            if column < start:
                return span.token
        return self.lines[row][-1].token

    def column_of(self, token: int) -> int:
        column = 0
        for span in self.lines[self._rows[token]]:
            if span.token == token:
                break
            column += span.width
        return column

    def _break(self) -> None:
        self.lines.append([])
        self._used = 0

    def _put(self, token: int, text: str, width: int) -> None:
        self.lines[-1].append(Span(token, text, width))
        self._used += width

    def _put_long(self, token: int, text: str) -> None:
        """Cut between letters, which may be two cells wide, or none where marks sit on them."""
        begin, width = 0, 0
        for end, letter in enumerate(text):
            cells = cell_len(letter)
            if width + cells > self.width:
                self._put(token, text[begin:end], cell_len(text[begin:end]))
                self._break()
                begin, width = end, 0
            width += cells
        self._put(token, text[begin:], cell_len(text[begin:]))
