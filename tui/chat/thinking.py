"""Where a reply thinks and where it speaks."""

from __future__ import annotations

from typing import NamedTuple

OPENS, CLOSES = "[THINK]", "[/THINK]"


class Part(NamedTuple):
    """A stretch of a reply; an empty one tells that a thought began or ended there."""

    thought: bool
    text: str


class ThinkingSplitter:
    """Tells thoughts from speech while a reply comes in pieces; the marks themselves go."""

    def __init__(self) -> None:
        self.thinking = False
        self._held = ""

    def add(self, text: str) -> list[Part]:
        """The parts that are certain now; what may be the beginning of a mark waits."""
        parts: list[Part] = []
        rest = self._held + text
        while True:
            mark = CLOSES if self.thinking else OPENS
            before, found, after = rest.partition(mark)
            if not found:
                break
            if before:
                parts.append(Part(self.thinking, before))
            self.thinking = not self.thinking
            parts.append(Part(self.thinking, ""))
            rest = after
        held = _begun(rest, mark)
        self._held = rest[len(rest) - held :]
        if speech := rest[: len(rest) - held]:
            parts.append(Part(self.thinking, speech))
        return parts

    def finish(self) -> list[Part]:
        """What was held back; it was no mark."""
        held, self._held = self._held, ""
        return [Part(self.thinking, held)] if held else []


def _begun(text: str, mark: str) -> int:
    """How many letters at the end of a text may be the beginning of a mark."""
    return next((n for n in range(len(mark) - 1, 0, -1) if text.endswith(mark[:n])), 0)


def split(text: str) -> list[Part]:
    """The parts of a whole reply, without empty ones."""
    splitter = ThinkingSplitter()
    return [part for part in [*splitter.add(text), *splitter.finish()] if part.text]
