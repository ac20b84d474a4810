"""From a model's thread to the screen's loop: many events, few deliveries."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Lock

from mlx_mistral.live.events import Event, Failed, Finished, Loaded, LoadFailed

FRAME_SECONDS = 1 / 20
LONGEST_SECONDS = 1 / 5
SHARE = 0.15
"""Of the time of one core, what showing a reply may take: model and screen share Python."""
LAST = (Finished, Failed, Loaded, LoadFailed)
"""What someone may have asked for by a key: it waits for no frame."""
Batch = tuple[Event, ...]


class Bridge:
    """An engine's listener. Events are collected and handed over at most once a frame.

    Frames that cost more come more seldom, so that what is shown does not slow the model down.
    Neither side waits for the other: the model's thread appends to a list, the loop takes the
    list as it is when a frame begins, or at once when something has ended.
    """

    def __init__(
        self,
        deliver: Callable[[Batch], None],
        frame_seconds: float = FRAME_SECONDS,
        worked: Callable[[], float] = time.thread_time,
    ) -> None:
        """worked: seconds that the thread of the loop has computed, from any start."""
        self._deliver = deliver
        self._shortest = self._frame_seconds = frame_seconds
        self._worked = worked
        self._worked_before = 0.0
        self._pending: list[Event] = []
        self._lock = Lock()
        self._awake = self._hurries = False
        self._next: asyncio.TimerHandle | None = None
        self._last = float("-inf")
        self._loop: asyncio.AbstractEventLoop | None = None

    def open(self) -> None:
        """Hands over on the loop that runs now. Comes before the first event."""
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Events that come from now on are dropped."""
        with self._lock:
            self._loop = None
            self._pending.clear()

    def __call__(self, event: Event) -> None:
        """From any thread; returns at once and never raises."""
        with self._lock:
            loop = self._loop
            if loop is None:
                return
            self._pending.append(event)
            hurries = isinstance(event, LAST)
            if self._awake and (self._hurries or not hurries):
                return
            self._awake, self._hurries = True, hurries
            try:
                loop.call_soon_threadsafe(self._wake, hurries)
            except RuntimeError:  # the loop has ended: nobody looks any more
                self._loop = None

    def _wake(self, hurries: bool) -> None:
        loop = asyncio.get_running_loop()
        wait = 0.0 if hurries else self._last + self._frame_seconds - loop.time()
        if wait > 0:
            self._next = loop.call_later(wait, self._hand_over)
        else:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None
        self._last = asyncio.get_running_loop().time()
        worked, before = self._worked(), self._worked_before
        self._worked_before = worked
        self._frame_seconds = max(self._shortest, min((worked - before) / SHARE, LONGEST_SECONDS))
        with self._lock:
            batch, self._pending = tuple(self._pending), []
            self._awake = self._hurries = False
        if batch:
            self._deliver(batch)
