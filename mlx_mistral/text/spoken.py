"""Replies go back to the model in the tokens that it made them of, which the cache holds.

Text can be written in several ways in tokens, and a model does not always choose the one that
its tokenizer would; then a text that is encoded again differs from what was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, TypeVar

from mlx_mistral.errors import TokenizerError
from mlx_mistral.text.thinking import CLOSE, OPEN, ReplyStream

if TYPE_CHECKING:
    from mlx_mistral.text.tokenizer import Tokenizer

KEPT_REPLIES = 1000


class Said(Protocol):
    """A message of a chat."""

    @property
    def role(self) -> str: ...

    @property
    def content(self) -> str: ...

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Of a reply: the tokens that it was made of, without the one that ended it."""


S = TypeVar("S", bound=Said)


class Spoken:
    """Puts the ids of replies in place of those that a chat format made of their texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._marks = {tokenizer.control_id(name) for name in (OPEN, CLOSE)} - {None}
        self._text = lru_cache(KEPT_REPLIES)(self._text_of)
        self._plain = lru_cache(KEPT_REPLIES)(self._plain_ids)

    def __call__(
        self,
        ids: Sequence[int],
        messages: Sequence[S],
        encode: Callable[[Sequence[S]], list[int]],
    ) -> list[int]:
        """`ids` with what each reply was made of, where that says the same text.

        ids: of `messages`, as `encode` makes them. A format in which not every reply ends with
            an end-of-text token, and nothing else does, is left as it is.
        """
        out = list(ids)
        replies = [i for i, message in enumerate(messages) if message.role == "assistant"]
        ends = [i for i, token in enumerate(out) if token in self._tokenizer.eos_ids]
        if len(replies) != len(ends):
            return out
        for i, end in reversed(list(zip(replies, ends, strict=True))):
            made = messages[i].token_ids
            if not made or self._text(made) != messages[i].content:
                continue
            start = self._start(out, end, messages, i, encode)
            if start is not None:
                out[start:end] = made
        return out

    def _start(
        self,
        ids: list[int],
        end: int,
        messages: Sequence[S],
        i: int,
        encode: Callable[[Sequence[S]], list[int]],
    ) -> int | None:
        """Where the ids of message i begin; None: the format makes something else of it."""
        content = messages[i].content
        if not content.startswith(OPEN):
            for text in (content, content.rstrip(" ")):
                plain = self._plain(text)
                if plain and ids[max(0, end - len(plain)) : end] == plain:
                    return end - len(plain)
        if content.startswith(OPEN) and not self._gives_thoughts_back(ids, end):
            return None
        try:
            before = encode(messages[:i])
        except TokenizerError:
            return None
        return len(before) if before == ids[: len(before)] and len(before) <= end else None

    def _gives_thoughts_back(self, ids: list[int], end: int) -> bool:
        """Whether a thought precedes the end of a reply: a format may leave it out."""
        others = self._tokenizer.eos_ids
        start = next((n for n in range(end - 1, -1, -1) if ids[n] in others), 0)
        return bool(self._marks.intersection(ids[start:end]))

    def _plain_ids(self, text: str) -> list[int]:
        try:
            return self._tokenizer.encode(text)
        except TokenizerError:
            return []

    def _text_of(self, ids: tuple[int, ...]) -> str | None:
        """What is shown of these tokens; None where they say more than text."""
        stream = ReplyStream(self._tokenizer)
        try:
            if any(self._tokenizer.is_control(one) and one not in self._marks for one in ids):
                return None
            return "".join(stream.add(one)[0] for one in ids) + stream.finish()
        except TokenizerError:
            return None
