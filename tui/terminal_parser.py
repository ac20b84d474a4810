"""What a terminal sends, as keys and pastes."""

from __future__ import annotations

from collections.abc import Iterable

from textual import events
from textual._xterm_parser import XTermParser
from textual.message import Message

from .chat.clean import clean

BEGIN, END = "\x1b[200~", "\x1b[201~"
"""Around what is pasted."""
_REST = len(END) - 1
"""Letters of the end of a part that may be the beginning of a mark."""


class TerminalParser(XTermParser):
    """Textual's, but that nothing of what is pasted is a key, whatever it holds.

    Textual takes the letters after an Escape in a pasted text as typed: an Enter among them sends
    the message. Here a paste is one text up to its end, without escape sequences.
    """

    def __init__(self) -> None:
        super().__init__()
        self._pasted: list[str] | None = None
        self._last = ""

    def feed(self, data: str) -> Iterable[Message]:
        """Keys and pastes that are whole; text may come in any parts."""
        while data:
            mark = BEGIN if self._pasted is None else END
            seen = self._last + data
            found = seen.find(mark)
            if found < 0:
                self._last = seen[-_REST:]
                if self._pasted is None:
                    yield from super().feed(data)
                else:
                    self._pasted.append(data)
                return
            end = found + len(mark) - len(self._last)
            part, data, self._last = data[:end], data[end:], ""
            if self._pasted is None:
                yield from self._typed(part + END)
                self._pasted = []
            else:
                text = "".join([*self._pasted, part])[: -len(END)]
                self._pasted = None
                yield events.Paste(clean(text))

    def _typed(self, text: str) -> Iterable[Message]:
        """Keys before a paste; for the library, that one is over at once."""
        for message in super().feed(text):
            if not isinstance(message, events.Paste):
                yield message
