"""One token through the model, sampling included: traced once, then repeated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.fixed import Form, stand_ins
from mlx_mistral.model import Model
from mlx_mistral.model.experts import SparseMoE

from .sampling import Draws
from .tracing import can_trace, unfused_on_cpu

NAN = -1
"""Drawn in place of a token where a text's logits are NaN; the vocabulary does not have it."""

IN_FLIGHT_BYTES = 16 << 20
"""Caches so small may be copied on a GPU: that takes less time than its waiting for the host."""
STEP_BYTES = 600 << 20
"""A step that reads more is cut into more commands than MLX leaves outstanding: it encodes on when
at most 10 are, of at most 50 MB each. Source: mlx, transforms.cpp, metal/device.cpp."""


class NextToken:
    """One step of decoding: compiled where caches and model allow it, else as it comes."""

    def __init__(self, model: Model, cache: Sequence[KVCache], sampler: Draws) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        traced = model.is_traceable and can_trace()
        self._compiled = CompiledStep(model, cache, sampler) if traced else None
        weights: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
        self._weight_bytes = sum(one.nbytes for one in weights.values())

    @property
    def may_overlap(self) -> bool:
        """Whether a step may be submitted before the one before it is done."""
        cache_bytes = sum(one.nbytes for one in self._cache)
        return may_overlap(self._weight_bytes, cache_bytes, on_cpu=mx.default_device() == mx.cpu)

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array]:
        """Builds the step, without computing it. The caches then hold the given tokens.

        Shapes: (B,) ints -> (B, vocab) logits, (B,) tokens drawn from them, or NAN.
        """
        if self._compiled and (built := self._compiled(tokens)):
            return built
        logits = self._model(tokens[:, None], self._cache)[:, -1]
        return logits, draw(self._sampler, logits)


def may_overlap(weight_bytes: int, cache_bytes: int, *, on_cpu: bool) -> bool:
    """Whether steps in flight together gain more than they cost.

    A buffer that the step before still reads cannot be written in place, and is copied. MLX
    bounds what is outstanding, so that in a large model a layer's turn comes again only when
    its buffers are free. On the CPU it bounds that to less than one layer.
    """
    if on_cpu or cache_bytes <= IN_FLIGHT_BYTES:
        return True
    return weight_bytes + cache_bytes > STEP_BYTES


class CompiledStep:
    """The step as a graph that is traced once and replayed.

    Weights are those of the trace: it belongs to one reply, in which nobody changes them.
    The position is an array that each step hands to the next, so no two steps differ.
    """

    def __init__(self, model: Model, cache: Sequence[KVCache], sampler: Draws) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        self._routers = [x.block_sparse_moe for x in model.layers if "block_sparse_moe" in x]
        self._listened: list[bool] = []
        self._forms: list[Form] = []
        self._replay: Callable[..., list[mx.array]] | None = None
        self._position = mx.array(0)
        self._offset = -1

    def __call__(self, tokens: mx.array) -> tuple[mx.array, mx.array] | None:
        """Builds the step, without computing it; None: these caches cannot take part.

        Shapes: (B,) ints -> (B, vocab) logits, (B,) tokens drawn.
        """
        forms = [form for one in self._cache if (form := one.make_room())]
        if len(forms) < len(self._cache):
            return None
        offset = self._cache[0].offset
        if offset != self._offset:
            self._position = mx.array(offset)
        buffers = [buffer for one in self._cache for buffer in (one.keys, one.values)]
        state = self._sampler.state
        arrays = (tokens, self._position, *state, *buffers)
        listened = [router.on_route is not None for router in self._routers]
        if self._replay is None or forms != self._forms or listened != self._listened:
            self._forms, self._listened = forms, listened
            self._replay = mx.compile(_traced(self._model, self._sampler, self._routers, forms))
            with unfused_on_cpu():
                drawn, logits, position, *rest = self._replay(*arrays)
        else:
            drawn, logits, position, *rest = self._replay(*arrays)
        n = len(state)
        self._sampler.state = rest[:n]
        for i, one in enumerate(self._cache):
            one.advance(rest[n + 2 * i], rest[n + 2 * i + 1])
        listeners = [router.on_route for router in self._routers if router.on_route is not None]
        for listener, chosen in zip(listeners, rest[n + 2 * len(self._cache) :], strict=True):
            listener(chosen)
        self._position, self._offset = position, offset + 1
        return logits, drawn


def _traced(
    model: Model, sampler: Draws, routers: Sequence[SparseMoE], forms: Sequence[Form]
) -> Callable[..., list[mx.array]]:
    """What is compiled. It knows no caches, which would live as long as MLX keeps the trace."""

    def run(tokens: mx.array, position: mx.array, *rest: mx.array) -> list[mx.array]:
        before = sampler.state
        n = len(before)
        caches = stand_ins(forms, rest[n:], position)
        listening = [router for router in routers if router.on_route is not None]
        listeners = [router.on_route for router in listening]
        chosen: list[mx.array] = []
        try:
            # Whoever listens to a router is told of every pass; a trace runs once.
            for router in listening:
                router.on_route = chosen.append
            sampler.state = list(rest[:n])
            logits = model(tokens[:, None], cast("Sequence[KVCache]", caches))[:, -1]
            drawn = draw(sampler, logits)
            state = sampler.state
        finally:
            sampler.state = before
            for router, listener in zip(listening, listeners, strict=True):
                router.on_route = listener
        buffers = [buffer for one in caches for buffer in (one.keys, one.values)]
        return [drawn, logits, position + 1, *state, *buffers, *chosen]

    return run


def draw(sampler: Draws, logits: mx.array) -> mx.array:
    """Tokens, or NAN. Shapes: (B, vocab) -> (B,) int32."""
    broken = mx.isnan(logits.astype(mx.float32).sum(axis=-1))
    return mx.where(broken, mx.array(NAN, mx.int32), sampler(logits).astype(mx.int32))
