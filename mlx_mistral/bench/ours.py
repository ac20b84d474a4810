"""This program, driven as its users do."""

from __future__ import annotations

import copy
import gc
import inspect
from collections.abc import Sequence
from typing import Any

import mlx.core as mx

from mlx_mistral.cache import KVCache, Snapshot
from mlx_mistral.checkpoint import load_model
from mlx_mistral.completion import stream_generate
from mlx_mistral.errors import MlxMistralError
from mlx_mistral.generation import BatchGenerator

from .cases import ROOM
from .history import load_drawn
from .program import Trial
from .timing import Steps, timed


class Ours:
    """A folder's model in this program."""

    def __init__(
        self,
        folder: str,
        *,
        dtype: str | None = None,
        name: str = "mlx-mistral",
        memory: int | None = None,
        **options: Any,
    ) -> None:
        """memory: the budget, in bytes. options: keyword arguments of `stream_generate`."""
        self.name = name
        before = mx.get_active_memory()
        self._model = load_model(folder, dtype=dtype)
        self._model.budget_bytes = memory
        self._weights_bytes = mx.get_active_memory() - before
        self._options = options
        self._cache: list[KVCache] = []
        self._places: list[Snapshot] = []
        self._before: list[int] = []

    def having(self, **options: Any) -> Ours:
        """The same model and cache, with other options."""
        other = copy.copy(self)
        other._options = self._options | options
        return other

    @property
    def vocab_size(self) -> int:
        return self._model.config.vocab_size

    @property
    def dtype(self) -> mx.Dtype:
        return self._model.dtype

    @property
    def held_bytes(self) -> int:
        return self._weights_bytes + sum(one.nbytes for one in self._cache)

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        self._cache, self._places, self._before = [], [], list(ids)
        gc.collect()
        if not ids:
            return
        cache, config = self._model.make_cache(), self._model.config
        if drawn:
            load_drawn(cache, len(ids), config.n_kv_heads, config.head_dim, self.dtype)
        else:
            for _ in stream_generate(self._model, None, ids, max_tokens=1, prompt_cache=cache):
                pass
        for one in cache:
            one.trim(one.offset - len(ids))
        self._cache, self._places = cache, [one.snapshot() for one in cache]

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        for one, place in zip(self._cache, self._places, strict=True):
            one.restore(place)
        steps = self._alone(prompts[0], gen_tokens) if len(prompts) == 1 else None
        return timed(steps or self._together(prompts, gen_tokens), gen_tokens)

    def close(self) -> None:
        self.fill([])
        del self._model
        gc.collect()
        mx.clear_cache()

    def _alone(self, prompt: Sequence[int], gen_tokens: int) -> Steps:
        cache, options = self._cache or self._model.make_cache(), self._options
        if options.get("speculate"):
            options = options | {"cached_ids": self._before}
        for response in stream_generate(
            self._model,
            None,
            prompt,
            max_tokens=gen_tokens + ROOM,
            prompt_cache=cache,
            **options,
        ):
            yield [response.token]

    def _together(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Steps:
        batch = BatchGenerator(self._model, max_batch=len(prompts))
        for prompt in prompts:
            batch.insert(prompt, max_tokens=gen_tokens + ROOM)
        while batch:
            yield [new.token for new in sorted(batch.next(), key=lambda new: new.id)]


def check_option(option: str) -> None:
    """Raises: MlxMistralError: replies cannot be asked for in this way yet."""
    if option not in inspect.signature(stream_generate).parameters:
        raise MlxMistralError(f"--{option} is not available in this version; leave it out")
