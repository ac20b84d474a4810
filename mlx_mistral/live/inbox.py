"""What a model's thread has still to do, and what of it is not wanted any more."""

from __future__ import annotations

import threading
from collections import deque

from .commands import Command, Count, Load, Reply


class Inbox:
    """Commands in order, handed over by any thread and taken by one.

    `pressing` is a cheap look at whether `take_pressing` would give anything.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Command] = deque()
        self._unwanted: list[Reply | Load] = []
        self._current: int | None = None
        self._is_stopped = self._is_loading = False
        self.closed = False
        self.pressing = False

    def put(self, command: Command) -> None:
        with self._changed:
            if self.closed:
                return
            self._waiting.append(command)
            self._look()
            self._changed.notify()

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be done, not even to close."""
        return not (self._waiting or self._unwanted or self.closed)

    def wait(self, seconds: float) -> bool:
        """Until there is something to do; False where nothing comes for so long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.is_empty, seconds)

    def take(self) -> Command | None:
        """The next command, once there is one; None when the inbox is closed and empty."""
        with self._changed:
            self._current, self._is_stopped = None, False
            self._changed.wait_for(lambda: not self.is_empty)
            if self._unwanted:
                command: Command = self._unwanted.pop(0)
                self._is_stopped = True
            elif self._waiting:
                command = self._waiting.popleft()
                self._is_stopped = self.closed
            else:
                return None
            self._is_loading = isinstance(command, Load)
            if isinstance(command, Reply):
                self._current = command.id
            self._look()
            return command

    def take_pressing(self) -> list[Reply | Load | Count]:
        """What need not wait for the command at work: what is unwanted, and texts to count.

        A text behind a model that is still to be loaded is left for that model to count.
        """
        with self._changed:
            taken: list[Reply | Load | Count] = [*self._unwanted]
            self._unwanted = []
            kept: deque[Command] = deque()
            is_behind_load = False
            for command in self._waiting:
                is_behind_load |= isinstance(command, Load)
                if isinstance(command, Count) and not is_behind_load:
                    taken.append(command)
                else:
                    kept.append(command)
            self._waiting = kept
            self.pressing = False
            return taken

    def stop(self, id: int | None) -> None:
        """Marks a reply as unwanted, at work or waiting; None: all. Loads and counts stay."""
        with self._changed:
            kept: deque[Command] = deque()
            for command in self._waiting:
                if isinstance(command, Reply) and id in (None, command.id):
                    self._unwanted.append(command)
                else:
                    kept.append(command)
            self._waiting = kept
            if self._current is not None and id in (None, self._current):
                self._is_stopped = True
            self._look()
            self._changed.notify()

    def stop_loading(self) -> None:
        """Marks models that are being loaded, or are to be, as unwanted."""
        with self._changed:
            self._unwanted += [each for each in self._waiting if isinstance(each, Load)]
            self._waiting = deque(each for each in self._waiting if not isinstance(each, Load))
            if self._is_loading:
                self._is_stopped = True
            self._look()
            self._changed.notify()

    def close(self) -> None:
        """Nothing more comes in; all that waits is unwanted."""
        with self._changed:
            self.closed = self._is_stopped = True
            self._changed.notify()

    @property
    def is_stopped(self) -> bool:
        """Whether the command at work shall end."""
        return self._is_stopped

    def _look(self) -> None:
        self.pressing = bool(self._unwanted) or any(
            isinstance(command, Count) for command in self._waiting
        )
