"""The pass that checks a draft: compiled where caches and model allow it, else as it comes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.fixed import Form
from mlx_mistral.generation.replay import Compute, Replay
from mlx_mistral.generation.sampling import Sampler
from mlx_mistral.generation.step import draw, draw_from
from mlx_mistral.model import Model

TRACE_AT = 4
"""The pass of a form that is traced: a trace costs more than several passes built anew save."""
TRACES = 16
"""Kept of a text's passes, which differ in length and, as buffers grow, in form."""


class Checked(NamedTuple):
    """What a pass over a token and its draft says.

    Shapes: logits (T, vocab), drawn (T,) with NAN where the logits are.
    states: the sampler's after each draw.
    is_usual: whether later passes of this form take as long, which a trace is not.
    """

    logits: mx.array
    drawn: mx.array
    states: list[list[mx.array]]
    is_usual: bool = True


class CheckingPass:
    """Feeds a few tokens to the caches and draws after each of them.

    A form is traced when it has come a few times: most do not.
    """

    def __init__(self, model: Model, cache: Sequence[KVCache], sampler: Sampler) -> None:
        self._model, self._cache, self._sampler = model, cache, sampler
        self._replay = Replay(model, cache, _check_with(model, sampler), n_kept=TRACES)
        self._met: Counter[tuple[Form, ...]] = Counter()

    def __call__(self, fed: Sequence[int]) -> Checked:
        """Builds the pass, without computing it. The caches then hold all that was fed.

        The sampler stays as it was.
        """
        tokens, state = mx.array([list(fed)]), self._sampler.state
        forms = self._replay.forms(len(fed))
        if forms is not None:
            self._met[forms] += 1
        if forms is not None and self._met[forms] >= TRACE_AT:
            built, is_usual = self._replay(forms, tokens, state)
            n = len(state)
            after = [built[2 + i * n : 2 + (i + 1) * n] for i in range(len(fed))]
            return Checked(built[0], built[1], after, is_usual)
        logits = self._model(tokens, self._cache)[0]
        return Checked(logits, *draw_each(self._sampler, state, logits))


def _check_with(model: Model, sampler: Sampler) -> Compute:
    def compute(
        tokens: mx.array, caches: Sequence[KVCache], state: list[mx.array]
    ) -> list[mx.array]:
        logits = model(tokens, caches)[0]
        drawn, states = draw_each(sampler, state, logits)
        return [logits, drawn, *(array for after in states for array in after)]

    return compute


def draw_each(
    sampler: Sampler, state: list[mx.array], logits: mx.array
) -> tuple[mx.array, list[list[mx.array]]]:
    """A token, or NAN, from each row, one after another, and the sampler's state after each.

    Shapes: (T, vocab) -> (T,) ints.
    """
    if not state:  # the likeliest, whatever came before
        return draw(sampler, logits), [[] for _ in range(logits.shape[0])]
    drawn, states = [], []
    for row in range(logits.shape[0]):
        token, state = draw_from(sampler, state, logits[row : row + 1])
        drawn.append(token)
        states.append(state)
    return mx.concatenate(drawn), states
