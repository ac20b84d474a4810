"""Stop strings, found also where they begin in one token and end in another."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.errors import TokenizerError


class StopStrings:
    """Passes text on until one of the strings turns up.

    Holds back only an end that could be the beginning of a stop string.
    Raises: TokenizerError: a stop string is empty.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        strings = [strings] if isinstance(strings, str) else list(strings)
        if not all(strings):
            raise TokenizerError("a stop string is empty and would end every reply; leave it out")
        self._strings = strings
        self._held = ""

    def add(self, text: str) -> tuple[str, bool]:
        """The text that is certain now, and whether a stop string ended it (it is left out)."""
        self._held += text
        found = [place for one in self._strings if (place := self._held.find(one)) >= 0]
        if found:
            certain, self._held = self._held[: min(found)], ""
            return certain, True
        keep = max((_overlap(self._held, one) for one in self._strings), default=0)
        split = len(self._held) - keep
        certain, self._held = self._held[:split], self._held[split:]
        return certain, False

    def finish(self) -> str:
        """The text still held back."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text could begin the stop string."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if stop.startswith(text[-n:])), 0)
