"""A pass over caches of fixed forms: a graph that is traced once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import mlx.core as mx

from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache
from mlx_mistral.cache.fixed import Form, stand_ins
from mlx_mistral.model import Model
from mlx_mistral.model.moe import SparseMoE

Compute = Callable[[mx.array, Sequence[KVCache], list[mx.array]], list[mx.array]]
"""A pass: of tokens, what stands for the caches, and further arrays."""
Traces = dict[tuple[Hashable, ...], Callable[..., list[mx.array]]]
"""By what they depend on, oldest first."""


class Replay:
    """Passes over one set of caches, each form of which is traced once.

    Weights are those of the trace: it belongs to one reply, or to replies that overlap, while which
    nobody changes them.
    compute: must hold no cache, since MLX keeps it as long as its trace, and would never free it.
    way: names what it computes, beside its arrays; those of one way may share traces.
    n_kept: traces at a time; the oldest makes way.
    """

    def __init__(
        self,
        model: Model,
        cache: Sequence[KVCache],
        compute: Compute,
        *,
        way: Hashable = None,
        n_kept: int = 1,
        traces: Traces | None = None,
    ) -> None:
        self._cache, self._compute, self._way, self._n_kept = cache, compute, way, n_kept
        self._is_possible = model.is_traceable and active_backend().can_compile()
        self._routers = [x.block_sparse_moe for x in model.layers if "block_sparse_moe" in x]
        self.traces: Traces = {} if traces is None else traces

    def forms(self, n_new: int = 1) -> tuple[Form, ...] | None:
        """Makes room for tokens in the caches, and says in which forms; None: they have none."""
        if not self._is_possible:
            return None
        forms = tuple([form for one in self._cache if (form := one.make_room(n_new))])
        return forms if len(forms) == len(self._cache) else None

    def __call__(
        self, forms: tuple[Form, ...], tokens: mx.array, arrays: Sequence[mx.array] = ()
    ) -> tuple[list[mx.array], bool]:
        """Builds the pass, without computing it. The caches then hold the tokens.

        Returns what is computed, and whether that took no trace.
        """
        first = self._cache[0]
        buffers = [buffer for one in self._cache for buffer in one.state]
        padding = mx.array(first.left_padding or 0)
        given = (tokens, mx.array(first.offset), padding, *buffers, *arrays)
        listeners = [router.on_route for router in self._routers if router.on_route is not None]
        listened = tuple([router.on_route is not None for router in self._routers])
        key = (forms, listened, buffers[0].shape[0], self._way)
        traced = self.traces.get(key)
        is_traced = traced is not None
        if traced is None:
            while len(self.traces) >= self._n_kept:
                del self.traces[next(iter(self.traces))]
            run = _pass(self._compute, forms, len(buffers), self._routers)
            self.traces[key] = traced = active_backend().compile(run)
        out = traced(*given)
        n_new, n = forms[0].n_new, len(buffers) // len(forms)
        for i, one in enumerate(self._cache):
            one.advance(tuple(out[n * i : n * (i + 1)]), n_new)
        rest = out[len(buffers) :]
        for listener, chosen in zip(listeners, rest, strict=False):
            listener(chosen)
        return rest[len(listeners) :], is_traced


def _pass(
    compute: Compute, forms: Sequence[Form], n_buffers: int, routers: Sequence[SparseMoE]
) -> Callable[..., list[mx.array]]:
    """What is compiled. It knows no caches, as `compute` does not."""

    def run(
        tokens: mx.array, offset: mx.array, padding: mx.array, *rest: mx.array
    ) -> list[mx.array]:
        caches = stand_ins(forms, rest[:n_buffers], offset, padding)
        with _listening(routers) as chosen:
            out = compute(tokens, cast("Sequence[KVCache]", caches), list(rest[n_buffers:]))
        return [*(buffer for one in caches for buffer in one.state), *chosen, *out]

    return run


@contextmanager
def _listening(routers: Sequence[SparseMoE]) -> Iterator[list[mx.array]]:
    """Listens in place of those who listen: they are told of every pass, and a trace runs once."""
    listened = [(router, router.on_route) for router in routers if router.on_route is not None]
    chosen: list[mx.array] = []
    for router, _ in listened:
        router.on_route = chosen.append
    try:
        yield chosen
    finally:
        for router, listener in listened:
            router.on_route = listener
