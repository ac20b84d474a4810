"""One token through the model, sampling included: traced once, then repeated."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import mlx.core as mx
import mlx.nn as nn
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
    def _layer_operations(self) -> list[list[int]]:
        """Elements of the weights that each operation of a layer reads, attention's first."""
        return [_operations(layer) for layer in self._model.layers]

    @cached_property
    def _is_large(self) -> bool:
        """The weights alone make a step long enough to overlap."""
        limits = active_backend().pipelining
        operations = [size for layer in self._layer_operations for size in layer]
        return limits is None or limits.commits(operations) >= limits.min_commits

    @property
    def may_overlap(self) -> bool:
        """Whether a step may be submitted before the one before it is done."""
        limits = active_backend().pipelining
        if limits is None or self._is_large:
            return True  # most models: the caches need not be added up for each token
        operations = []
        for (projections, *others), cache in zip(self._layer_operations, self._cache, strict=True):
            stored = sum(buffer.size for buffer in cache.state)
            operations += [projections, stored, *others]
        cache_bytes = sum(cache.nbytes for cache in self._cache)
        return limits.can_overlap(operations, cache_bytes=cache_bytes)

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


def _operations(layer: nn.Module) -> list[int]:
    """Elements of the weights of each product, where products of one input count as one."""
    parameters: dict[str, mx.array] = dict(tree_flatten(layer.parameters()))
    sizes: dict[str, int] = {}
    for name, array in parameters.items():
        product = ".".join(name.split(".")[:-1])
        for joined in ("k_proj", "v_proj"):
            product = product.replace(joined, "q_proj")
        if "switch_mlp" not in product:
            product = product.replace("up_proj", "gate_proj")
        sizes[product] = sizes.get(product, 0) + array.size
    attention = [size for product, size in sizes.items() if product.endswith("q_proj")]
    return attention + [size for product, size in sizes.items() if not product.endswith("q_proj")]


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
