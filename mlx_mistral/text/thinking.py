"""What a model thinks before it answers, told apart in the text of its reply."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_mistral.text.tokenizer import Tokenizer

OPEN, CLOSE = "[THINK]", "[/THINK]"


class ReplyStream:
    """Tokens become text in which thinking stands between `[THINK]` and `[/THINK]`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._stream = tokenizer.stream()
        self._eos_ids = tokenizer.eos_ids
        self._marks = {tokenizer.control_id(name): name for name in (OPEN, CLOSE)}

    def add(self, token: int) -> tuple[str, bool]:
        """The text that this token completes, and whether the reply ends with it.

        Raises: TokenizerError: the id is not in the vocabulary.
        """
        if token in self._eos_ids:
            return self._stream.finish(), True
        if token in self._marks:
            return self._stream.finish() + self._marks[token], False
        return self._stream.add(token), False

    def finish(self) -> str:
        """What is still held back of a letter that never became whole."""
        return self._stream.finish()
