"""What a program has drawn on a terminal, as rows of text."""

from __future__ import annotations

import codecs
import re

from rich.cells import get_character_cell_size

_TOKEN = re.compile(
    r"\x1b\[(?P<parameters>[0-?]*)[ -/]*(?P<final>[@-~])"
    r"|\x1b[\]P^_X].*?(?:\x07|\x1b\\)"
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"
    r"|(?P<control>[\x00-\x1a\x1c-\x1f\x7f])"
    r"|(?P<text>[^\x00-\x1f\x7f]+)",
    re.DOTALL,
)
LONGEST_SEQUENCE = 4096
"""Letters; what begins as a sequence and is longer has lost its end."""


class TerminalScreen:
    """As much of a terminal as a full-screen program needs: a cursor, letters, clearing.

    Colours, keyboard and mouse modes are read past. `stray` has the letters of what began as an
    escape sequence and is none.
    """

    def __init__(self, width: int, height: int) -> None:
        self.stray = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self.resize(width, height)

    @property
    def text(self) -> str:
        """Rows without their trailing spaces."""
        return "\n".join("".join(row).rstrip() for row in self._rows)

    def resize(self, width: int, height: int) -> None:
        """An empty screen of another size: a program draws it anew."""
        self.width, self.height = width, height
        self._rows: list[list[str]] = self._empty()
        self._other: list[list[str]] = []
        self._x = self._y = 0

    def feed(self, data: bytes) -> None:
        """Draws; a sequence may come in parts."""
        text = self._rest + self._decoder.decode(data)
        at = 0
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                if len(text) - at < LONGEST_SEQUENCE:
                    break
                self.stray += text[at]
                at += 1
                continue
            at = found.end()
            if found["text"]:
                for letter in found["text"]:
                    self._write(letter)
            elif found["control"]:
                self._control(found["control"])
            elif found["final"]:
                self._act(found["final"], found["parameters"])
        self._rest = text[at:]

    def _empty(self) -> list[list[str]]:
        return [[" "] * self.width for _ in range(self.height)]

    def _write(self, letter: str) -> None:
        cells = get_character_cell_size(letter)
        if not cells:
            if 0 < self._x <= self.width:
                self._rows[self._y][self._x - 1] += letter
            return
        if self._x + cells <= self.width:  # line wrap is off: what does not fit is dropped
            self._rows[self._y][self._x : self._x + cells] = [letter, *[""] * (cells - 1)]
        self._x = min(self.width, self._x + cells)

    def _control(self, letter: str) -> None:
        if letter == "\r":
            self._x = 0
        elif letter == "\b":
            self._x = max(0, self._x - 1)
        elif letter == "\n":
            if self._y + 1 < self.height:
                self._y += 1
            else:
                self._rows = [*self._rows[1:], [" "] * self.width]

    def _act(self, final: str, parameters: str) -> None:
        numbers = [int(each) if each.isdecimal() else 0 for each in parameters.split(";")]
        first = max(1, numbers[0])
        if final in "Hf":
            column = max(1, numbers[1]) if len(numbers) > 1 else 1
            self._y, self._x = min(first, self.height) - 1, min(column, self.width) - 1
        elif final in "ABCD":
            step = -first if final in "AD" else first
            if final in "AB":
                self._y = min(self.height - 1, max(0, self._y + step))
            else:
                self._x = min(self.width - 1, max(0, self._x + step))
        elif final == "J" and numbers[0] in (2, 3):
            self._rows = self._empty()
        elif final == "K":
            self._rows[self._y][self._x :] = [" "] * (self.width - self._x)
        elif parameters == "?1049" and final in "hl":
            self._rows, self._other = self._other or self._empty(), self._rows
            if final == "h":
                self._rows = self._empty()
            self._x = self._y = 0
