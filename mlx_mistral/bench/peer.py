"""mlx-lm on the same folder: the same weights in the same dtype, its own loop and caches."""

from __future__ import annotations

import copy
import gc
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mistral.checkpoint import read_folder
from mlx_mistral.checkpoint.dtype import resolve_dtype
from mlx_mistral.errors import CheckpointError, MlxMistralError

from .cases import ROOM
from .history import drawn_pair
from .program import Trial
from .timing import Steps, timed

NAME = "mlx-lm"


class MlxLm:
    """A folder's model in mlx-lm.

    Raises: MlxMistralError: mlx-lm is not installed. CheckpointError: it cannot run the model.
    """

    name = NAME

    def __init__(self, folder: str, *, dtype: str | None = None) -> None:
        try:
            # `mlx_lm.generate` is also the name of a function.
            self._loop: Any = import_module("mlx_lm.generate")
            self._caches: Any = import_module("mlx_lm.models.cache")
            load_model = import_module("mlx_lm.utils").load_model
        except ImportError as error:
            raise MlxMistralError(
                f"mlx-lm cannot be imported ({error}), --against mlx-lm; install it: "
                "pip install mlx-lm"
            ) from error
        self._config = read_folder(folder).config
        before = mx.get_active_memory()
        try:
            # Newer folders give theta in `rope_parameters` alone, where its Mistral looks for none.
            theta = {"rope_theta": self._config.rope_theta}
            self._model, _ = load_model(Path(folder), lazy=True, model_config=theta)
            self._dtype = resolve_dtype(dtype)
            self._model.set_dtype(self._dtype)
            mx.eval(self._model.parameters())
            self._model(mx.array([[0]]))
        except Exception as error:  # whatever a program that is not ours raises
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"mlx-lm cannot run this model, {folder}: {reason[:200] or type(error).__name__}; "
                "compare with another build or folder"
            ) from error
        gc.collect()
        mx.clear_cache()
        self._weights_bytes = mx.get_active_memory() - before
        self._filled: list[Any] = []

    @property
    def vocab_size(self) -> int:
        return self._config.vocab_size

    @property
    def held_bytes(self) -> int:
        return self._weights_bytes + sum(int(one.nbytes) for one in self._filled)

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        self._filled = []
        gc.collect()
        if not ids:
            return
        cache = self._caches.make_prompt_cache(self._model)
        plain = all(type(one) is self._caches.KVCache for one in cache)
        if drawn and plain:
            config = self._config
            for layer, one in enumerate(cache):
                pair = drawn_pair(layer, len(ids), config.n_kv_heads, config.head_dim, self._dtype)
                mx.eval(pair)
                (one.keys, one.values), one.offset = pair, len(ids)
                mx.clear_cache()
        else:
            for _ in self._steps(ids, 0, cache):
                pass
        self._filled = cache

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        if len(prompts) > 1:
            return timed(self._together(prompts, gen_tokens + ROOM), gen_tokens)
        cache = self._at_depth()
        # What its command line and server hold around their loops.
        with self._loop.wired_limit(self._model, [self._loop.generation_stream]):
            trial = timed(self._steps(prompts[0], gen_tokens + ROOM, cache), gen_tokens)
        mx.synchronize(self._loop.generation_stream)
        return trial

    def close(self) -> None:
        self.fill([])
        del self._model
        gc.collect()
        mx.clear_cache()

    def _at_depth(self) -> list[Any]:
        if not self._filled:
            return list(self._caches.make_prompt_cache(self._model))
        if not self._caches.can_trim_prompt_cache(self._filled):
            return copy.deepcopy(self._filled)
        return self._filled

    def _steps(self, ids: Sequence[int], max_tokens: int, cache: list[Any]) -> Steps:
        held = cache[0].offset
        try:
            for token, _ in self._loop.generate_step(
                mx.array(list(ids)), self._model, max_tokens=max_tokens, prompt_cache=cache
            ):
                yield [int(token)]
        finally:
            if cache is self._filled:
                self._caches.trim_prompt_cache(cache, cache[0].offset - held)

    def _together(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> Steps:
        """Texts that were not yet given a token wait for the others' first ones."""
        generator = self._loop.BatchGenerator(
            self._model, max_tokens=max_tokens, prefill_batch_size=len(prompts)
        )
        try:
            ids = generator.insert([list(prompt) for prompt in prompts])
            made: dict[Any, list[int]] = {one: [] for one in ids}
            for n in range(max_tokens):
                while min(map(len, made.values())) <= n:
                    for response in generator.next_generated():
                        made[response.uid].append(response.token)
                yield [made[one][n] for one in ids]
        finally:
            generator.close()
