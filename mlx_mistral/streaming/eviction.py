"""Which expert to give up when another needs its room."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from .slot import Key

MEMORY = 0.9
"""What a use counts for at its layer's next turn."""
PRIOR = 0.3
"""A use that every expert is credited with: a new one is not worthless."""


class Worth:
    """How likely each expert is to be wanted soon: its aged uses over the layers until its turn.

    Layers take turns in a fixed order, so the wait is known, which recency alone ignores: least
    recently used first throws out what the next layer is about to ask for.
    """

    def __init__(self, n_layers: int, n_experts: int) -> None:
        self._uses = np.zeros((n_layers, n_experts))
        self._layer = 0

    def note(self, layer: int, shares: Mapping[int, float]) -> None:
        """A layer's turn: the experts that its tokens chose, each by the share of the tokens."""
        self._layer = layer
        self._uses[layer] *= MEMORY
        for expert, share in shares.items():
            self._uses[layer, expert] += share

    def of(self, key: Key) -> float:
        """Comparable between experts until the next turn."""
        layer, expert = key
        n_layers = len(self._uses)
        wait = (layer - self._layer - 1) % n_layers + 1
        return float(self._uses[layer, expert] + PRIOR) / wait
