"""A reply in figures while it is made."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

from mlx_mistral.cache import PrefixCache

from .events import Progress

EVERY_SECONDS = 0.2
_NO_TIME = 1e-9


class Figures:
    """Counts tokens and seconds of one reply.

    now: seconds from any start, such as `time.perf_counter`.
    """

    def __init__(self, id: int, memory_limit_bytes: int, now: Callable[[], float]) -> None:
        self._id, self._memory_limit_bytes, self._now = id, memory_limit_bytes, now
        self._cache: PrefixCache | None = None
        self._start = self._told = now()
        self._first: float | None = None
        self._prompt_tokens = self._reused_tokens = self._read_tokens = 0
        self._decoded = 0
        self.reply_tokens = 0

    def begin(self, cache: PrefixCache, prompt_tokens: int, reused_tokens: int) -> None:
        self._cache = cache
        self._prompt_tokens, self._reused_tokens = prompt_tokens, reused_tokens

    def read(self, tokens: int) -> None:
        """So many new tokens of the prompt have been read so far."""
        self._read_tokens = tokens

    def decoded(self) -> None:
        """A token was drawn."""
        self.reply_tokens += 1
        self._decoded += 1
        if self._first is None:
            self._first = self._now()

    def is_due(self) -> bool:
        """Whether it is time to tell again; then the wait starts anew."""
        now = self._now()
        if now - self._told < EVERY_SECONDS:
            return False
        self._told = now
        return True

    def progress(self) -> Progress:
        now, first = self._now(), self._first
        reading = max((first or now) - self._start, _NO_TIME)
        decoding = max(now - first, _NO_TIME) if first is not None else 0.0
        return Progress(
            id=self._id,
            prompt_tokens=self._prompt_tokens,
            reused_tokens=self._reused_tokens,
            reply_tokens=self.reply_tokens,
            prefill_tps=self._read_tokens / reading,
            # The first token belongs to the prefill.
            decode_tps=(self._decoded - 1) / decoding if self._decoded > 1 else 0.0,
            first_token_seconds=None if first is None else first - self._start,
            cache_tokens=self._cache.layers[0].offset if self._cache else 0,
            cache_bytes=self._cache.nbytes if self._cache else 0,
            memory_bytes=mx.get_active_memory(),
            memory_limit_bytes=self._memory_limit_bytes,
        )
