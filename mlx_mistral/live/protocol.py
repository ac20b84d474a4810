"""What a screen needs of whatever makes the replies: a model's thread, or a test's script."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from .commands import Command
from .events import Event

Listener = Callable[[Event], None]
"""Called on the engine's thread; it must return at once and may not raise."""


class Engine(Protocol):
    """Takes commands one after another and tells what comes of them.

    Every Reply ends with one Finished or Failed, every Load with one Loaded or LoadFailed.
    """

    def start(self, listener: Listener) -> None:
        """Begins to work; called once, before all else."""

    def submit(self, command: Command) -> None:
        """Hands over a command and returns at once. From any thread."""

    def stop(self, id: int | None = None) -> None:
        """Ends a reply as soon as a token or a chunk of the prompt is done; None: all of them.

        What it has said stays in the cache. Replies that have not begun end at once.
        """

    def stop_loading(self) -> None:
        """Ends a download or a loading that has begun or waits.

        It fails then; what was downloaded whole is kept, and the model before, where that has
        not made room yet, is told of again with a Loaded.
        """

    def close(self) -> None:
        """Ends everything and waits for the thread. May be called twice."""
