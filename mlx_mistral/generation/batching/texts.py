"""Texts that are decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.gather import gather_rows
from mlx_mistral.generation.sampling import Sampling
from mlx_mistral.generation.step import NextToken
from mlx_mistral.memory.batch import Extent
from mlx_mistral.model import Model

from .sampler import BatchSampler


@dataclass(slots=True, kw_only=True, eq=False)
class Text:
    """One text, from when it is asked for until it ends."""

    id: int
    prompt: tuple[int, ...]
    sampling: Sampling
    left: int
    """Tokens that may still be told; 0: it has ended."""
    n_told: int = 0

    @property
    def extent(self) -> Extent:
        return Extent(len(self.prompt), len(self.prompt) + self.n_told + self.left)


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """Texts with a token each that is drawn, but neither told nor fed to the caches yet.

    rows: of each text, its row in the caches; several share one until they move on.
    Shapes: tokens (B,).
    """

    model: Model
    texts: list[Text]
    rows: list[int]
    cache: list[KVCache]
    sampler: BatchSampler
    tokens: mx.array
    is_lent: bool = False
    """Whether others begin from these caches too, so that they must not move on."""
    after: InitVar[NextToken | None] = None
    """The step of texts that these go on with."""
    step: NextToken = field(init=False)

    def __post_init__(self, after: NextToken | None) -> None:
        self.step = NextToken(self.model, self.cache, self.sampler, after=after)

    @property
    def n_rows(self) -> int:
        return self.cache[0].state[0].shape[0]

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.cache)


def gather(chosen: Sequence[tuple[Running, Sequence[int]]]) -> Running | None:
    """The chosen texts of several batches as one, whose caches it takes; None: there are none.

    Layers move one after the other, so two sets of caches are never held at once.
    """
    chosen = [(batch, places) for batch, places in chosen if places]
    if not chosen:
        return None
    first, places = chosen[0]
    every = list(range(first.n_rows))
    if len(chosen) == 1 and list(places) == first.rows == every and not first.is_lent:
        return first
    texts = [batch.texts[i] for batch, places in chosen for i in places]
    layers: list[KVCache] = []
    for batch, _ in chosen:
        batch.cache.reverse()
    while first.cache:
        taken = [(b.cache.pop(), [b.rows[i] for i in places]) for b, places in chosen]
        layers.append(gather_rows(taken))
        mx.eval(layers[-1].state)
    return Running(
        model=first.model,
        texts=texts,
        rows=list(range(len(texts))),
        cache=layers,
        sampler=BatchSampler.gather([(batch.sampler, places) for batch, places in chosen]),
        tokens=mx.concatenate([batch.tokens[mx.array(list(places))] for batch, places in chosen]),
        after=first.step,
    )
