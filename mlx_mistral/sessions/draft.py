"""A reply on its way to the disk: written once a second, so that a crash loses no more."""

from __future__ import annotations

import time
from collections.abc import Callable

from .store import Store
from .tree import Message, Statistics

FLUSH_SECONDS = 1.0


class Draft:
    """Collects the text of a reply and keeps it in the store.

    Text waits for at most `every_seconds`, as long as `append` or `tick` are called; call `tick`
    a few times a second, since a model may fall silent. What could not be written is kept and
    tried again at the next call.
    """

    def __init__(
        self,
        store: Store,
        message: Message,
        *,
        clock: Callable[[], float] = time.monotonic,
        every_seconds: float = FLUSH_SECONDS,
    ) -> None:
        """`message`: the reply as the store has it, not complete."""
        self.message = message
        self._store = store
        self._clock = clock
        self._every_seconds = every_seconds
        self._waiting: list[str] = []
        self._flushed_at = clock()

    def append(self, text: str) -> None:
        """Raises: SessionError: it is time to write and the store cannot; the text is kept."""
        self._waiting.append(text)
        self.tick()

    def tick(self) -> None:
        """Writes what waits if it is time to. Raises: SessionError: as `append`."""
        if self._clock() - self._flushed_at >= self._every_seconds:
            self.flush()

    def flush(self) -> None:
        """Writes what waits. Raises: SessionError: as `append`."""
        text = "".join(self._waiting)
        if text:
            self._store.append(self.message.id, text)
        self._waiting.clear()
        self._flushed_at = self._clock()

    def finish(self, statistics: Statistics | None = None) -> Message:
        """Writes the rest and returns the reply, complete. Raises: SessionError: as `append`."""
        self.message = self._store.complete(self.message.id, "".join(self._waiting), statistics)
        self._waiting.clear()
        return self.message
