"""Drafts written by a smaller model with the same vocabulary."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_mistral.cache.prefix import common_prefix
from mlx_mistral.errors import MlxMistralError
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.generation.sampling import Sampler
from mlx_mistral.model import Model

from .length import LENGTHS

TRUST = 8
"""Its drafts are expected to hold like a copy after so many tokens, before any was checked."""
N_TIMED = 2
"""Tokens that it makes to time them."""


class ModelDrafter:
    """Runs a model of its own behind the text.

    It draws with the keys that the large model will draw with, so that where both have the same
    distribution both draw the same token, at any temperature.
    Source: arXiv:2211.17192 for the idea; drafts are compared with what the large model draws
    under the same noise, in place of a test by the ratio of probabilities.
    """

    def __init__(
        self,
        model: Model,
        prompt: Sequence[int],
        *,
        vocab_size: int,
        context: int | None = None,
        prefill_step_size: int = 512,
    ) -> None:
        """vocab_size: of the large model.

        Raises: MlxMistralError: the vocabularies differ in size.
        """
        if model.config.vocab_size != vocab_size:
            raise MlxMistralError(
                f"the draft model has {model.config.vocab_size} tokens, the model {vocab_size}; "
                "choose a draft model with the same tokenizer"
            )
        self._model, self._step_size = model, prefill_step_size
        self._cache = model.make_cache(context=context)
        for one in self._cache:
            one.allow_trim(LENGTHS[-1])
        self._ids = list(prompt)
        self._n_read = 0
        """Tokens of the text that the cache holds."""
        self._ahead: list[int] = []
        """Drafted tokens that it holds behind them."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Tells what the text goes on with."""
        self._ids.extend(tokens)

    def begin(self, now: Callable[[], float] = time.perf_counter) -> float:
        """Reads the text so far, and returns what a token takes, in seconds.

        This is a part of the prompt's time, not of the first draft's.
        """
        if self._room() < N_TIMED:
            return 0.0
        logits, seconds = self._read(), []
        for _ in range(N_TIMED):
            token = logits.argmax(axis=-1)
            mx.eval(token)
            began = now()
            logits = self._model(token[:, None], self._cache)[:, -1]
            mx.eval(logits)
            seconds.append(now() - began)
        for one in self._cache:
            one.trim(N_TIMED)
        return min(seconds)

    def match(self) -> int | None:
        return TRUST if self._room() > 0 else None

    def guess(self) -> int | None:
        """None: its guesses cost passes."""
        return None

    def propose(self, n: int, sampler: Sampler) -> list[int]:
        """n tokens, fewer where this model's positions end."""
        n = min(n, self._room())
        if n < 1:
            return []
        logits = self._read()
        drawn = [sampler(logits)]
        for _ in range(n - 1):
            logits = self._model(drawn[-1][:, None], self._cache)[:, -1]
            drawn.append(sampler(logits))
        draft: list[int] = mx.concatenate(drawn).tolist()  # type: ignore[assignment]
        self._ahead = draft[:-1]
        return draft

    def _read(self) -> mx.array:
        """Takes wrong drafts back and feeds what the text has become. -> (1, vocab)."""
        right = common_prefix(self._ahead, self._ids[self._n_read :])
        kept = min(self._n_read + right, len(self._ids) - 1)
        for one in self._cache:
            one.trim(one.offset - kept)
        new = self._ids[kept:]
        self._n_read, self._ahead = len(self._ids), []
        if len(new) <= LENGTHS[-1] + 1:
            return self._model(mx.array([new]), self._cache)[:, -1]
        return prefill(self._model, mx.array([new]), self._cache, step_size=self._step_size)

    def _room(self) -> int:
        limits = [one.limit for one in self._cache] + [self._model.config.max_context]
        known = [limit for limit in limits if limit is not None]
        return min(known) - len(self._ids) if known else LENGTHS[-1]
