"""What was sent before, to be walked through from the composer."""

from __future__ import annotations

from collections.abc import Iterable


class History:
    """A list of prompts and a place in it; past its end stands the draft."""

    def __init__(self, prompts: Iterable[str] = ()) -> None:
        self._prompts = list(prompts)
        self._place = len(self._prompts)
        self._draft = ""

    def add(self, prompt: str) -> None:
        """Remembers a prompt that was sent, unless it is the last one again."""
        if prompt.strip() and self._prompts[-1:] != [prompt]:
            self._prompts.append(prompt)
        self._place, self._draft = len(self._prompts), ""

    def earlier(self, current: str) -> str | None:
        """The prompt before; None at the first. `current` is kept where it is the draft."""
        if self._place == 0:
            return None
        if self._place == len(self._prompts):
            self._draft = current
        self._place -= 1
        return self._prompts[self._place]

    def later(self) -> str | None:
        """The prompt after, or at the end the draft; None at the draft."""
        if self._place == len(self._prompts):
            return None
        self._place += 1
        if self._place == len(self._prompts):
            return self._draft
        return self._prompts[self._place]
