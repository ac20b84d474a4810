"""One token through the model, sampling included: traced once, then repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache
from mlx_mistral.model import Model

from .replay import Compute, Replay
from .sampling import Draws

TRACES = 8
"""Kept of texts that join and leave, of which there are now more and now fewer."""
NAN = -1
"""Drawn in place of a token where a text's logits are NaN; the vocabulary does not have it."""


class NextToken:
    """One step of decoding: compiled where caches and model allow it, else as it comes.

    after: a step of other texts, whose traces serve these too where nothing else has changed.
    """

    def __init__(
        self,
        model: Model,
        cache: Sequence[KVCache],
        sampler: Draws,
        *,
        after: NextToken | None = None,
    ) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        self._replay: Replay = Replay(
            model,
            cache,
            _next_of(model, sampler),
            way=sampler.way,
            n_kept=1 if after is None else TRACES,
            traces=None if after is None else after._replay.traces,
        )

    @cached_property
    def _weight_elements(self) -> tuple[int, int]:
        """Elements of all weights, and of the largest."""
        weights: dict[str, mx.array] = dict(tree_flatten(self._model.parameters()))
        sizes = [array.size for array in weights.values()]
        return sum(sizes), max(sizes)

    @property
    def may_overlap(self) -> bool:
        """Whether a step may be submitted before the one before it is done."""
        limits = active_backend().pipelining
        if limits is None:
            return True
        n_elements, largest = self._weight_elements
        if n_elements >= limits.min_step_elements(largest):
            return True  # most models: the caches need not be added up for each token
        buffers = [buffer for cache in self._cache for buffer in cache.state]
        return limits.can_overlap(
            n_elements=n_elements + sum(buffer.size for buffer in buffers),
            largest=largest,
            cache_bytes=sum(buffer.nbytes for buffer in buffers),
        )

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Builds the step, without computing it. The caches then hold the given tokens.

        Shapes: (B,) ints -> (B, vocab) logits, (B,) tokens drawn from them, or NAN.
        """
        if forms := self._replay.forms():
            built, _ = self._replay(forms, tokens, self._sampler.state)
            logits, drawn, *self._sampler.state = built
            return logits, drawn
        logits = self._model(tokens[:, None], self._cache)[:, -1]
        return logits, draw(self._sampler, logits)


def _next_of(model: Model, sampler: Draws) -> Compute:
    def compute(
        tokens: mx.array, caches: Sequence[KVCache], state: list[mx.array]
    ) -> list[mx.array]:
        logits = model(tokens[:, None], caches)[:, -1]
        drawn, state = draw_from(sampler, state, logits)
        return [logits, drawn, *state]

    return compute


def draw_from(
    sampler: Draws, state: list[mx.array], logits: mx.array
) -> tuple[mx.array, list[mx.array]]:
    """As `draw`, from a given state; returns the next one too, and leaves the sampler's alone."""
    before = sampler.state
    try:
        sampler.state = state
        return draw(sampler, logits), sampler.state
    finally:
        sampler.state = before


def draw(sampler: Draws, logits: mx.array) -> mx.array:
    """Tokens, or NAN. Shapes: (B, vocab) -> (B,) int32."""
    broken = mx.isnan(logits.astype(mx.float32).sum(axis=-1))
    return mx.where(broken, mx.array(NAN, mx.int32), sampler(logits).astype(mx.int32))
