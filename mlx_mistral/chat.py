"""Messages in, text out; what was read for one turn is not read again for the next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from mlx_mistral.cache import KVCache, Snapshot
from mlx_mistral.completion import GenerationResponse, stream_generate
from mlx_mistral.model import Model

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

Message = dict[str, Any]


class Chat:
    """A conversation with a model.

    Keeps its cache between turns: only tokens that differ from what the cache holds are
    computed. Where a window has passed over keys that would be needed again, it goes back to
    the latest of a few snapshots, or reads the conversation anew; the text is the same.

    messages: the conversation so far as OpenAI-style dicts; change it freely between turns.
    options: defaults for `stream_generate`, such as temp, max_tokens, seed.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        *,
        system: str | None = None,
        messages: Sequence[Message] = (),
        tools: Sequence[Message] | None = None,
        context: int | None = None,
        kv_bits: int | None = None,
        max_tokens: int = 1024,
        **options: Any,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.system = system
        self.messages: list[Message] = list(messages)
        self.tools = tools
        self.options = {"max_tokens": max_tokens, **options}
        self.reused_tokens = 0
        """How many tokens of the last prompt the cache already held."""
        self._memory = _Memory(model.make_cache(context=context, kv_bits=kv_bits))

    def send(self, text: str, **options: Any) -> Iterator[GenerationResponse]:
        """Says something and streams the reply; both join `messages`.

        A reply that is interrupted keeps the text it has; with none, nothing is kept.
        options: override the chat's own for this turn.
        Raises: as `stream_generate`, and TokenizerError; the message is then taken back.
        """
        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        try:
            for response in self._reply({**self.options, **options}):
                parts.append(response.text)
                yield response
        finally:
            if reply := "".join(parts):
                self.messages.append({"role": "assistant", "content": reply})
            else:
                self.messages.pop()

    def clear(self) -> None:
        """Forgets the conversation; the system prompt stays."""
        self.messages.clear()

    @property
    def cache(self) -> list[KVCache]:
        return self._memory.cache

    def _reply(self, options: dict[str, Any]) -> Iterator[GenerationResponse]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        ids = self.tokenizer.encode_chat([*system, *self.messages], self.tools)
        self.reused_tokens = self._memory.rewind_to_prefix_of(ids)
        self._memory.ids = list(ids)
        told = options.pop("progress", None)

        def progress(done: int, total: int) -> None:
            if done == total:
                self._memory.keep_place(ids)
            if told:
                told(done, total)

        try:
            for response in stream_generate(
                self.model,
                self.tokenizer,
                ids[self.reused_tokens :],
                prompt_cache=self.cache,
                progress=progress,
                **options,
            ):
                self._memory.ids.append(response.token)
                yield response
        finally:
            self._memory.settle()


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """Snapshots of all layers after the first n tokens of a text."""

    ids: list[int]
    snapshots: list[Snapshot]


class _Memory:
    """Caches, the ids whose keys they hold, and places to go back to past a wrap."""

    MAX_PLACES = 2
    """Each holds a full window of every windowed layer: as much memory as the cache itself."""

    def __init__(self, cache: list[KVCache]) -> None:
        self.cache = cache
        self.ids: list[int] = []
        self._places: list[_Place] = []

    def rewind_to_prefix_of(self, ids: Sequence[int]) -> int:
        """Makes the caches hold a beginning of `ids`, all but the last at most; how many."""
        common = min(_common_prefix(self.ids, ids), len(ids) - 1)
        if self._trim_to(common):
            return common
        for place in reversed(self._places):
            held = len(place.ids)
            if _common_prefix(place.ids, ids) == held and self._restore(place):
                common = min(held, len(ids) - 1)
                if self._trim_to(common):
                    return common
        self._trim_to(0)
        return 0

    def keep_place(self, ids: Sequence[int]) -> None:
        """Remembers this moment, at the end of a prompt, if going back could need it."""
        if any(one.window is not None for one in self.cache):
            place = _Place(list(ids), [one.snapshot() for one in self.cache])
            self._places = [*self._places[1 - self.MAX_PLACES :], place]

    def settle(self) -> None:
        """Drops the ids that were made but not yet fed."""
        del self.ids[self.cache[0].offset :]

    def _trim_to(self, length: int) -> bool:
        surplus = self.cache[0].offset - length
        if not all(one.can_trim(surplus) for one in self.cache):
            return False
        for one in self.cache:
            one.trim(surplus)
        return True

    def _restore(self, place: _Place) -> bool:
        pairs = list(zip(self.cache, place.snapshots, strict=True))
        if not all(one.can_restore(snapshot) for one, snapshot in pairs):
            return False
        for one, snapshot in pairs:
            one.restore(snapshot)
        return True


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))
