"""A long Markdown text in short ones, so that adding to it costs the same at its end."""

from __future__ import annotations

import re
from typing import NamedTuple

AIM = 3_000
"""Letters after which a text is cut where a paragraph ends."""
LIMIT = 6_000
"""Letters after which it is cut at any line's end."""
HARD_LIMIT = 8_000
"""Letters after which it is cut anywhere."""

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})[ \t]*([^`\n]*)")


class Piece(NamedTuple):
    """A text to be added to the current segment, or, where `fresh`, to begin the next with."""

    fresh: bool
    text: str


class Fence:
    """Follows the lines of a Markdown text and knows whether the last stands in a code block."""

    def __init__(self) -> None:
        self.mark = ""
        """The backticks or tildes that would close the block; empty outside of one."""
        self.opening = ""
        """The line that opened it."""

    def line(self, line: str) -> None:
        """Takes the next whole line."""
        found = _FENCE.match(line)
        if found is None:
            return
        mark, info = found.groups()
        if not self.mark:
            self.mark, self.opening = mark, line.rstrip("\n")
        elif mark.startswith(self.mark) and not info.strip():
            self.mark = self.opening = ""


class Segments:
    """Cuts a text that comes in pieces. A code block that is cut is closed and opened again."""

    def __init__(self) -> None:
        self._length = 0
        self._line = ""
        self._fence = Fence()

    def add(self, text: str) -> list[Piece]:
        """What to add to which segment. Whatever is cut, no letter is lost or added."""
        pieces: list[Piece] = []
        fresh, pending = False, ""
        for line in text.splitlines(keepends=True):
            for part in _parts(line, HARD_LIMIT // 2):
                if self._is_full():
                    if self._fence.mark:
                        end = "" if self._line == "" else "\n"
                        pending += f"{end}{self._fence.mark}\n"
                        start = f"{self._fence.opening}\n"
                    else:
                        start = ""
                    pieces.append(Piece(fresh, pending))
                    fresh, pending, self._length = True, start, len(start)
                pending += part
                self._length += len(part)
                self._line += part[: 200 - len(self._line)]
                if part.endswith("\n"):
                    self._end_line()
        if pending:
            pieces.append(Piece(fresh, pending))
        return [piece for piece in pieces if piece.text or piece.fresh]

    def _end_line(self) -> None:
        self._fence.line(self._line)
        self._blank = not self._line.strip()
        self._line = ""

    _blank = False

    def _is_full(self) -> bool:
        if self._length >= HARD_LIMIT:
            return True
        if self._line:
            return False
        paragraph_ends = self._blank and not self._fence.mark
        return self._length >= (AIM if paragraph_ends else LIMIT)


def _parts(line: str, size: int) -> list[str]:
    return [line[start : start + size] for start in range(0, len(line), size)] or [""]
