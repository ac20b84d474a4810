"""What a model thinks before it answers: told apart in its text, and given back as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .commands import Message

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

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


def to_chat(messages: Sequence[Message], tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """The messages as `Tokenizer.encode_chat` takes them.

    Thinking goes back in its own form where the format has one, and is left out where not.
    """
    thinks = tokenizer.control_id(OPEN) is not None and tokenizer.version != "tokenizer.json"
    chat = []
    for message in messages:
        content: str | list[dict[str, Any]] = message.content
        if message.role == "assistant" and message.content.startswith(OPEN):
            thought, closing, answer = message.content.removeprefix(OPEN).partition(CLOSE)
            content = answer
            if thinks:
                part = {"type": "thinking", "thinking": thought, "closed": bool(closing)}
                content = [part, *([{"type": "text", "text": answer}] if answer else [])]
        chat.append({"role": message.role, "content": content})
    return chat
