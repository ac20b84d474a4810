"""Messages in, text out; what was read for one turn is not read again for the next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mistral.cache import KVCache, PrefixCache, load_cache, save_cache
from mlx_mistral.completion import GenerationResponse, stream_generate
from mlx_mistral.errors import CacheError, TokenizerError
from mlx_mistral.model import Model
from mlx_mistral.text.spoken import Spoken
from mlx_mistral.text.stem import stem_length
from mlx_mistral.tuning import prefill_tokens

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

Message = dict[str, Any]


class Chat:
    """A conversation with a model.

    Keeps its cache between turns: only tokens that differ from what the cache holds are
    computed. Chats with one model share what they begin with, such as a system prompt: it is
    read once, and its keys are held once while they wait. Where a window has passed over keys
    that would be needed again, it goes back to the latest of a few snapshots, or reads the
    conversation anew; the text is the same.

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
        self._spoken = Spoken(tokenizer)
        self._made: dict[str, tuple[int, ...]] = {}
        """Of replies: the tokens that their texts were made of."""
        self._token_ids: list[int] = []
        """Of the last turn, with those at its end that were drawn and not read."""
        self._context, self._kv_bits = context, kv_bits
        self._prefix = PrefixCache(self._new_layers())

    def send(self, text: str, **options: Any) -> Iterator[GenerationResponse]:
        """Says something and streams the reply; both join `messages`.

        A reply that is interrupted keeps the text it has; with none, nothing is kept.
        options: override the chat's own for this turn.
        Raises: as `stream_generate`, and TokenizerError; the message is then taken back.
        """
        self.messages.append({"role": "user", "content": text})
        parts: list[str] = []
        made: list[int] = []
        try:
            for response in self._reply({**self.options, **options}):
                parts.append(response.text)
                if response.token not in self.tokenizer.eos_ids:
                    made.append(response.token)
                yield response
        finally:
            if reply := "".join(parts):
                self.messages.append({"role": "assistant", "content": reply})
                self._made[reply] = tuple(made)
            else:
                self.messages.pop()

    def clear(self) -> None:
        """Forgets the conversation; the system prompt stays."""
        self.messages.clear()

    def save_cache(self, path: str | Path) -> None:
        """Writes what has been read, so that another chat need not read it again.

        The messages are not in the file: keep them beside it, and give both to the other chat.
        Raises: CacheError: nothing has been read yet, or the disk refuses.
        """
        save_cache(
            path, self.cache, fingerprint=self.model.fingerprint(), token_ids=self._token_ids
        )

    def load_cache(self, path: str | Path) -> None:
        """Takes over what `save_cache` wrote, as far as the conversation begins alike.

        Raises: CacheError: the file is of another model, context or width, or is damaged; the
            chat stays as it was.
        """
        layers = self._new_layers()
        ids = load_cache(path, layers, fingerprint=self.model.fingerprint())
        held = layers[0].offset
        if len(ids) < held:
            raise CacheError(f"{path} does not say of which tokens it is; save a chat's cache")
        self._prefix = PrefixCache(layers)
        self._prefix.ids = ids[:held]
        self._prefix.keep_place()
        self.model.prefixes.add(self._prefix)
        self._token_ids = ids
        self._recall(ids)

    def branch(self) -> Chat:
        """Another chat that has said the same so far; what was read is not read again.

        Options are the same; each goes on by itself.
        """
        other = Chat(
            self.model,
            self.tokenizer,
            system=self.system,
            messages=[dict(message) for message in self.messages],
            tools=self.tools,
            context=self._context,
            kv_bits=self._kv_bits,
            **self.options,
        )
        other._made = dict(self._made)
        return other

    @property
    def cache(self) -> list[KVCache]:
        """What this chat has read, in buffers of its own until another chat is gone on with."""
        self.model.prefixes.wake(self._prefix, budget_bytes=self.model.budget_bytes)
        return self._prefix.layers

    def _new_layers(self) -> list[KVCache]:
        return self.model.make_cache(context=self._context, kv_bits=self._kv_bits)

    def _prompt(self) -> list[int]:
        """The conversation in tokens, replies in those that they were made of."""
        return self._encode(self._turns())

    def _recall(self, ids: Sequence[int]) -> None:
        """Finds the tokens of replies in those of a conversation."""
        turns = self._turns()
        for i, turn in enumerate(turns):
            if turn.role == "assistant" and turn.content:
                try:
                    before = self._encode(turns[:i])
                except TokenizerError:
                    return
                start = len(before)
                if before != list(ids[:start]):
                    return
                made = takewhile(lambda one: one not in self.tokenizer.eos_ids, ids[start:])
                self._made[turn.content] = tuple(made)

    def _stem(self, ids: Sequence[int]) -> int:
        """Where a ring that wraps would forget how other chats begin, too."""
        is_shared = bool(self.system or self.tools)
        if not is_shared or not self._prefix.is_longer_than_a_window(len(ids)):
            return 0
        system = [{"role": "system", "content": self.system}] if self.system else []

        def encode(text: str) -> list[int]:
            first = {"role": "user", "content": text}
            return self.tokenizer.encode_chat([*system, first], self.tools)

        return stem_length(ids, encode)

    def _turns(self) -> list[_Turn]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [_Turn(message=one, made=self._made) for one in (*system, *self.messages)]

    def _encode(self, turns: Sequence[_Turn]) -> list[int]:
        def encode(some: Sequence[_Turn]) -> list[int]:
            return self.tokenizer.encode_chat([one.message for one in some], self.tools)

        return self._spoken(encode(turns), turns, encode)

    def _reply(self, options: dict[str, Any]) -> Iterator[GenerationResponse]:
        ids = self._prompt()
        texts, prefix = self.model.prefixes, self._prefix
        self.reused_tokens = texts.begin(prefix, ids, budget_bytes=self.model.budget_bytes)
        prefix.stem = self._stem(ids)
        told = options.pop("progress", None)
        size = options.pop("prefill_step_size", None) or prefill_tokens(
            self.model.config, self.model.dtype
        )

        def chunk() -> int:
            return prefix.until_stem(size() if callable(size) else size)

        def progress(done: int, total: int) -> None:
            if done == total or prefix.layers[0].offset == prefix.stem:
                prefix.keep_place()
            if told:
                told(done, total)

        responses = stream_generate(
            self.model,
            self.tokenizer,
            ids[self.reused_tokens :],
            prompt_cache=prefix.layers,
            cached_ids=ids[: self.reused_tokens],
            prefill_step_size=chunk,
            progress=progress,
            spare=prefix.forget_places,
            **options,
        )
        try:
            with closing(responses):
                for response in responses:
                    prefix.ids.append(response.token)
                    yield response
        finally:
            self._token_ids = list(prefix.ids)
            prefix.settle()
            texts.end(prefix)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """A message as `Spoken` looks at it."""

    message: Message
    made: Mapping[str, tuple[int, ...]]

    @property
    def role(self) -> str:
        return str(self.message.get("role"))

    @property
    def content(self) -> str:
        content = self.message.get("content")
        return content if isinstance(content, str) else ""

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.made.get(self.content, ())
