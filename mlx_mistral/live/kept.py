"""What a model has read of conversations, on disk while they are not open."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from mlx_mistral.cache import PrefixCache
from mlx_mistral.cache.segment import can_be_cut
from mlx_mistral.errors import CacheError
from mlx_mistral.prompt_cache import PromptCacheStore, cache_key

from .events import Event, Noted
from .model import LiveModel

WORTH_SECONDS = 1.0
"""What can be read again in less is not written."""
MIN_TOKENS = 64
"""Fewer are read as quickly as they are loaded."""
WORTH_SHARE = 8
"""Of what is loaded, one part in so many has to be new."""


class KeptReading:
    """Puts the cache of a loaded model on disk, and takes from there what begins alike.

    A disk that refuses is told once; the model then reads everything itself.
    worth_seconds: what reading again must take for a cache to be written.
    """

    def __init__(
        self,
        store: PromptCacheStore,
        tell: Callable[[Event], None],
        *,
        worth_seconds: float = WORTH_SECONDS,
    ) -> None:
        self._store = store
        self._tell = tell
        self._worth_seconds = worth_seconds
        self._is_refused = False
        self._keys: tuple[LiveModel | None, dict[int | None, str]] = (None, {})

    def keep(self, live: LiveModel, *, go_on: Callable[[], bool], seconds: float) -> None:
        """Writes what is not on disk yet and worth it, a file after the other.

        go_on: asked before each file. seconds: after so many no other file is begun.
        """
        cache, until = live.prefix, time.monotonic() + seconds
        held = cache.layers[0].offset
        if self._is_refused or held < MIN_TOKENS or len(cache.ids) < held:
            return
        try:
            key = self._key(live)
            found = self._store.find(key, [*cache.ids[:held], -1])
            new = held - (found.tokens if found else 0)
            if new and new * live.pace.seconds_per_token >= self._worth_seconds:
                live.shared.wake(cache, budget_bytes=live.model.budget_bytes)
                self._keep_stem(key, live)
                self._store.save(
                    key, cache.ids, cache.layers, go_on=lambda: go_on() and time.monotonic() < until
                )
        except CacheError as error:
            self._is_refused = True
            self._tell(Noted(line=f"{error}. What is read is not kept on disk"))

    def _keep_stem(self, key: str, live: LiveModel) -> None:
        """Of a text that other texts cannot take over: what they begin with, too."""
        cache = live.prefix
        if cache.stem < MIN_TOKENS or can_be_cut(cache.layers):
            return
        stem = cache.at_stem(live.new_layers())
        if stem is not None and can_be_cut(stem):
            self._store.save(key, cache.ids[: cache.stem], stem)

    def restore(
        self, live: LiveModel, ids: Sequence[int], pause: Callable[[], None]
    ) -> PrefixCache:
        """The cache that a text goes on from: the one there is, or a longer one from disk.

        There is never memory taken for both. pause: called often; it raises to end the loading.
        """
        if self._is_refused:
            return live.prefix
        held = live.choose(ids)
        try:
            found = self._store.find(self._key(live), ids)
            if found is None:
                return live.prefix
            gain = found.tokens - held
            if gain < MIN_TOKENS or gain * WORTH_SHARE < found.tokens:
                return live.prefix
            live.forget()
            loaded = self._store.load(found, live.new_layers, pause=pause)
        except CacheError as error:
            self._tell(Noted(line=str(error)))
            return live.prefix
        return live.prefix if loaded is None else live.adopt(*loaded)

    def would_lose(self, live: LiveModel, ids: Sequence[int]) -> bool:
        """Whether reading a text costs more of what was read before than is not worth keeping."""
        lost = live.prefix.layers[0].offset - live.prefix.reusable(ids)
        return lost * live.pace.seconds_per_token >= self._worth_seconds

    def _key(self, live: LiveModel) -> str:
        """Made once for a model and a width of its cache."""
        if self._keys[0] is not live:
            self._keys = (live, {})
        keys = self._keys[1]
        if live.cache_bits not in keys:
            keys[live.cache_bits] = cache_key(
                live.model, live.tokenizer, context=live.context, kv_bits=live.cache_bits
            )
        return keys[live.cache_bits]
