"""Thinking goes back to the model as it was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mlx_mistral.text.thinking import CLOSE, OPEN

from .commands import Message

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer


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
