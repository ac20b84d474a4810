"""A terminal that is gone: what was said is kept, and the program ends as the system asked."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

SIGNALS = (signal.SIGHUP, signal.SIGTERM)
LONGEST_SECONDS = 5.0
"""After this the program ends even where its last lines wait for a terminal that reads nothing."""


class HangUp:
    """A context that a hang-up leaves in order, and ends the program behind.

    A program that waits for its terminal cannot leave by itself: the system's alarm ends it.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._leave: Callable[[], object] = lambda: None
        self._caught: int | None = None

    def leaves_by(self, loop: asyncio.AbstractEventLoop, leave: Callable[[], object]) -> None:
        """From now on a hang-up is told to a program that runs in `loop`."""
        self._loop, self._leave = loop, leave

    def __enter__(self) -> HangUp:
        self._before = {number: signal.signal(number, self._catch) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._caught is not None:
            signal.signal(self._caught, signal.SIG_DFL)
            os.kill(os.getpid(), self._caught)

    def _catch(self, number: int, frame: FrameType | None) -> None:
        self._caught = number
        signal.setitimer(signal.ITIMER_REAL, LONGEST_SECONDS)
        if self._loop is None:
            raise SystemExit(128 + number)
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._leave)
