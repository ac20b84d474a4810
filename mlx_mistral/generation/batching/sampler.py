"""Drawing for texts of a batch that may each be drawn in its own way."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from itertools import chain

import mlx.core as mx

from mlx_mistral.generation.sampling import Sampler, Sampling


class BatchSampler:
    """A `Sampler` for each way of drawing that the texts ask for."""

    def __init__(self, rows: Sequence[tuple[Sampler, int]]) -> None:
        """rows: of each text, what drew for it so far, and which of its rows."""
        ways: dict[Sampling, list[int]] = {}
        for place, (sampler, _) in enumerate(rows):
            ways.setdefault(replace(sampler.sampling, seed=None), []).append(place)
        self._samplers = [Sampler.gather([rows[i] for i in places]) for places in ways.values()]
        self._places = list(ways.values())
        order = list(chain.from_iterable(self._places))
        # Where each text's token lies among those of one sampler after the other.
        self._back = mx.array(sorted(range(len(order)), key=order.__getitem__))

    @classmethod
    def gather(cls, chosen: Sequence[tuple[BatchSampler, Sequence[int]]]) -> BatchSampler:
        """Goes on for the chosen texts of several batches."""
        return cls([sampler.row(i) for sampler, rows in chosen for i in rows])

    def row(self, place: int) -> tuple[Sampler, int]:
        for sampler, places in zip(self._samplers, self._places, strict=True):
            if place in places:
                return sampler, places.index(place)
        raise IndexError(place)

    @property
    def way(self) -> Hashable:
        """As of `Sampler`."""
        places = zip(self._samplers, self._places, strict=True)
        return tuple((sampler.way, tuple(rows)) for sampler, rows in places)

    @property
    def state(self) -> list[mx.array]:
        """As of `Sampler`."""
        return [array for sampler in self._samplers for array in sampler.state]

    @state.setter
    def state(self, arrays: list[mx.array]) -> None:
        for sampler in self._samplers:
            n = len(sampler.state)
            sampler.state, arrays = arrays[:n], arrays[n:]

    def __call__(self, logits: mx.array) -> mx.array:
        """Shapes: (B, vocab) -> (B,) ints."""
        if len(self._samplers) == 1:
            return self._samplers[0](logits)
        drawn = [
            sampler(logits[mx.array(places)])
            for sampler, places in zip(self._samplers, self._places, strict=True)
        ]
        return mx.concatenate(drawn)[self._back]
