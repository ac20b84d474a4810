"""How many tokens of a prompt are read at once, so that reading can end at any time."""

from __future__ import annotations

from collections.abc import Callable

SMALLEST, FIRST, LARGEST = 16, 64, 512
LAYER_SECONDS = 0.02
"""What a layer may take of a chunk: reading ends between two layers."""
GROWTH = 4


class Pace:
    """Measures a model's layers and chooses the next chunk by them: a power of two, so that a
    text is mostly cut alike.

    now: seconds from any start.
    largest: tokens of a chunk, however quick the model is.
    """

    def __init__(self, now: Callable[[], float], largest: int = LARGEST) -> None:
        self._now, self._largest = now, largest
        self._size = FIRST
        self._done = 0
        self._begun = now()
        self._n_layers = 0
        self.seconds_per_token = 0.0
        """Of the last chunk that was worth measuring; 0: there was none."""

    def before_layer(self) -> None:
        """Called before each layer of a chunk, once what came before it is computed."""
        if not self._n_layers:
            self._begun = self._now()
        self._n_layers += 1

    def read(self, done: int) -> None:
        """So many tokens of a prompt have been read; 0 as it begins."""
        n, self._done = done - self._done, done
        seconds, n_layers = self._now() - self._begun, self._n_layers
        self._n_layers = 0
        if done and n >= SMALLEST and n_layers:
            self.seconds_per_token = seconds / n
            self._choose(LAYER_SECONDS * n_layers / max(self.seconds_per_token, 1e-9))

    def chunk(self) -> int:
        """Tokens of the next chunk."""
        return min(self._size, self._largest)

    def _choose(self, most: float) -> None:
        wanted = SMALLEST
        while wanted < self._largest and 2 * wanted <= most:
            wanted *= 2
        self._size = min(wanted, GROWTH * self._size)
