"""The text of a reply, from its tokens as they are drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlx_mistral.text.stop import StopStrings

if TYPE_CHECKING:
    from mlx_mistral.text.tokenizer import Tokenizer


class ReplyText:
    """Tokens become text up to an end-of-text token or a stop string."""

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str]) -> None:
        self._decoder = tokenizer.stream() if tokenizer else None
        self._eos_ids = tokenizer.eos_ids if tokenizer else frozenset()
        self._stop = StopStrings(stop)

    def add(self, token: int) -> tuple[str, bool]:
        """The text that can be given out now, and whether the reply ends with it."""
        if self._decoder is None:
            return "", False
        if token in self._eos_ids:
            return self.finish(), True
        return self._stop.add(self._decoder.add(token))

    def finish(self) -> str:
        """What was held back: the end of the text was reached without a stop string."""
        if self._decoder is None:
            return ""
        text, ended = self._stop.add(self._decoder.finish())
        return text if ended else text + self._stop.finish()
