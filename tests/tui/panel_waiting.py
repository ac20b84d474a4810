"""Waiting for what another thread or a debounced resize brings."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from textual.pilot import Pilot

_SECONDS = 60.0


async def until(pilot: Pilot[Any], condition: Callable[[], bool]) -> None:
    """Lets the screen work until a condition holds; fails where it never does."""
    end = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < end, "this never came to be"
        await pilot.pause()
