"""A bar on stderr: how much is done, how fast it goes, how long it will take, what is at work."""

from __future__ import annotations

import time
from collections.abc import Callable

from .terminal import Progress

WIDTH = 16
PERIOD_SECONDS = 0.1


class ProgressBar:
    """Redrawn at most ten times a second; shown only where a person looks at it."""

    def __init__(
        self, *, quiet: bool, unit_bytes: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._line = Progress(quiet=quiet)
        self._unit_bytes = unit_bytes
        self._clock = clock
        self._began: tuple[float, float] | None = None
        self._drawn = float("-inf")

    def update(self, done: float, total: float, what: str) -> None:
        now = self._clock()
        if self._began is None:
            # What was done before this run says nothing about its speed.
            self._began = (now, done)
        if now - self._drawn >= PERIOD_SECONDS or done >= total:
            self._drawn = now
            self._line.show(self.text(done, total, what))

    def text(self, done: float, total: float, what: str) -> str:
        """`[#######---------]  45%  12.1 of 26.0 GB  0.81 GB/s  0:17 left  what`."""
        share = min(1.0, done / total) if total > 0 else 1.0
        bar = "#" * round(WIDTH * share)
        parts = [f"[{bar:-<{WIDTH}}] {share:4.0%}", self._amount(done, total)]
        began, first = self._began or (self._clock(), done)
        seconds, moved = self._clock() - began, done - first
        if seconds > 0 and moved > 0:
            if self._unit_bytes:
                parts.append(_rate(moved / seconds))
            parts.append(f"{clock_time((total - done) * seconds / moved)} left")
        return "  ".join([*parts, what])

    def clear(self) -> None:
        self._line.clear()

    def _amount(self, done: float, total: float) -> str:
        if not self._unit_bytes:
            return f"{done:,.0f} of {total:,.0f}"
        unit, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
        return f"{done / unit:.1f} of {total / unit:.1f} {name}"


def _rate(bytes_per_second: float) -> str:
    if bytes_per_second >= 1e8:
        return f"{bytes_per_second / 1e9:.2f} GB/s"
    return f"{bytes_per_second / 1e6:.1f} MB/s"


def clock_time(seconds: float) -> str:
    """0:17, 12:03, 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
