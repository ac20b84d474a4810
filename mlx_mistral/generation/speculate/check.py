"""The pass that checks a draft: compiled where caches and model allow it, else as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any, NamedTuple, cast

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.fixed import Form, stand_ins
from mlx_mistral.generation.sampling import Sampler
from mlx_mistral.generation.step import draw
from mlx_mistral.generation.tracing import can_trace, unfused_on_cpu
from mlx_mistral.model import Model


class Checked(NamedTuple):
    """What a pass over a token and its draft says.

    Shapes: logits (T, vocab), drawn (T,) with NAN where the logits are.
    states: the sampler's after each draw.
    is_usual: whether the next pass of this form takes as long; not while it is to be traced.
    """

    logits: mx.array
    drawn: mx.array
    states: list[list[mx.array]]
    is_usual: bool = True


class CheckingPass:
    """Feeds a few tokens to the caches and draws after each of them.

    A form is traced when it comes for the second time: a trace costs more than a pass.
    Weights are those of the first trace: it belongs to one reply.
    """

    def __init__(self, model: Model, cache: Sequence[KVCache]) -> None:
        self._model, self._cache = model, cache
        self._can_trace = can_trace() and model.is_traceable
        self._replays: dict[tuple[Form, ...], Callable[..., list[mx.array]] | None] = {}

    def __call__(self, fed: Sequence[int], sampler: Sampler) -> Checked:
        """Builds the pass, without computing it. The caches then hold all that was fed."""
        tokens, is_usual = mx.array([list(fed)]), True
        if self._can_trace:
            forms = tuple([f for one in self._cache if (f := one.make_room(len(fed)))])
            if len(forms) == len(self._cache):
                if forms in self._replays:
                    return self._compiled(tokens, sampler, forms)
                self._replays[forms], is_usual = None, False
        logits = self._model(tokens, self._cache)[0]
        return Checked(logits, *draw_each(sampler, logits), is_usual)

    def _compiled(self, tokens: mx.array, sampler: Sampler, forms: tuple[Form, ...]) -> Checked:
        n_new = tokens.shape[1]
        buffers: list[Any] = [b for one in self._cache for b in (one.keys, one.values)]
        position = mx.array(self._cache[0].offset)
        arrays = (tokens, position, *sampler.state, *buffers)
        replay = self._replays[forms]
        is_usual = replay is not None
        if replay is None:
            replay = mx.compile(_traced(self._model, forms, copy(sampler)))
            self._replays[forms] = replay
            with unfused_on_cpu():
                out = replay(*arrays)
        else:
            out = replay(*arrays)
        logits, drawn, *rest = out
        for i, one in enumerate(self._cache):
            one.advance(rest[2 * i], rest[2 * i + 1], n_new)
        states, n_state = rest[len(buffers) :], len(sampler.state)
        after = [states[i * n_state : (i + 1) * n_state] for i in range(n_new)]
        return Checked(logits, drawn, after, is_usual)


def _traced(
    model: Model, forms: tuple[Form, ...], sampler: Sampler
) -> Callable[..., list[mx.array]]:
    """What is compiled. It knows no caches, which would live as long as MLX keeps the trace."""

    def run(tokens: mx.array, position: mx.array, *rest: mx.array) -> list[mx.array]:
        n_state = len(sampler.state)
        sampler.state = list(rest[:n_state])
        caches = stand_ins(forms, rest[n_state:], position)
        logits = model(tokens, cast("Sequence[KVCache]", caches))[0]
        drawn, states = draw_each(sampler, logits)
        buffers = [buffer for one in caches for buffer in (one.keys, one.values)]
        return [logits, drawn, *buffers, *(array for state in states for array in state)]

    return run


def draw_each(sampler: Sampler, logits: mx.array) -> tuple[mx.array, list[list[mx.array]]]:
    """A token, or NAN, from each row, one after another, and the sampler's state after each.

    Shapes: (T, vocab) -> (T,) ints.
    """
    if not sampler.state:  # the likeliest, whatever came before
        return draw(sampler, logits), [[] for _ in range(logits.shape[0])]
    sampler = copy(sampler)
    drawn, states = [], []
    for row in range(logits.shape[0]):
        drawn.append(draw(sampler, logits[row : row + 1]))
        states.append(sampler.state)
    return mx.concatenate(drawn), states
