"""What all chats with a system prompt begin with, in tokens."""

from __future__ import annotations

from typing import Any

from mlx_mistral.demo import model_path
from mlx_mistral.errors import TokenizerError
from mlx_mistral.text import load_tokenizer
from mlx_mistral.text.stem import stem_length

DEMO = load_tokenizer(model_path())


def chat(text: str) -> list[int]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": text},
    ]
    return DEMO.encode_chat(messages)


def test_a_stem_ends_where_the_message_begins() -> None:
    for text in ("Where?", "0", "1", "A longer one"):
        ids = chat(text)
        n = stem_length(ids, chat)
        assert "Be brief." in DEMO.decode(ids[:n])
        assert DEMO.decode(ids[n:]).strip() == text


def test_a_chat_that_begins_otherwise_has_none() -> None:
    assert stem_length([DEMO.bos_id], chat) == 0

    def refused(text: str) -> list[int]:
        raise TokenizerError("no such format")

    assert stem_length(chat("x"), refused) == 0
