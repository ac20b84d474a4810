"""A text or chats from a file, and the token ids that they become."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import MlxMistralError

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

CHATS = ".jsonl"
"""Files of this ending hold one chat a line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is to be encoded: a text, or the messages and tools of a chat."""

    text: str = ""
    messages: Sequence[dict[str, Any]] | None = None
    tools: Sequence[dict[str, Any]] | None = None

    @property
    def n_chars(self) -> int:
        """Characters of the text, or of all messages' text."""
        if self.messages is None:
            return len(self.text)
        return sum(len(content) for message in self.messages
                   if isinstance(content := message.get("content"), str))  # fmt: skip

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        if self.messages is None:
            return tokenizer.encode(self.text)
        return tokenizer.encode_chat(self.messages, self.tools)


def parse_chat(text: str, where: str) -> Source:
    """Raises: MlxMistralError: no JSON, or neither messages nor an object that holds them."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise MlxMistralError(f"not JSON ({reason}), {where}; write a list of messages") from None
    chat = data if isinstance(data, dict) else {"messages": data}
    messages, tools = chat.get("messages"), chat.get("tools")
    if not _is_objects(messages) or not (tools is None or _is_objects(tools)):
        raise MlxMistralError(
            f'no list of messages, {where}; write [{{"role": "user", "content": "…"}}, …]'
        )
    return Source(messages=messages, tools=tools)


def is_chats(path: str | None) -> bool:
    """Whether a file holds chats, by its name."""
    return path is not None and path.endswith(CHATS)


def encode_file(content: str, path: str | None, tokenizer: Tokenizer) -> list[int]:
    """A file's ids for measuring a model on it: a text's, or those of the chats in a .jsonl.

    Chats follow each other as the model's own format writes them; the first BOS is left out, as
    a text's is. Raises: MlxMistralError: a line is no chat. TokenizerError: not in this format.
    """
    if not is_chats(path):
        return tokenizer.encode(content)
    ids: list[int] = []
    for number, line in enumerate(content.splitlines(), start=1):
        if line.strip():
            ids += _whole_chat(parse_chat(line, f"{path}, line {number}"), tokenizer)
    return ids[1:] if ids[:1] == [tokenizer.bos_id] else ids


def _whole_chat(chat: Source, tokenizer: Tokenizer) -> list[int]:
    """A chat with its last reply closed: formats for asking leave that open, or refuse it."""
    *before, last = chat.messages or [{}]
    if last.get("role") != "assistant":
        return chat.ids(tokenizer)
    opened = replace(chat, messages=[*before, {**last, "prefix": True}])
    return [*opened.ids(tokenizer), min(tokenizer.eos_ids)]


def _is_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
