"""Messages that wait until the reply before them is over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A message to be sent; `edits` is the own message that it stands in for."""

    text: str
    edits: int | None = None
    written: str = ""
    """As it was written, before files were added; empty: as it is sent."""


class Queue:
    """First in, first out; held after a stop, so that stopping does not start the next one."""

    def __init__(self) -> None:
        self._waiting: list[Pending] = []
        self.held = False

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Pending]:
        return iter(self._waiting)

    def add(self, message: Pending) -> None:
        self._waiting.append(message)

    def next(self) -> Pending | None:
        """The message whose turn it is; None while the queue is empty or held."""
        if self.held or not self._waiting:
            return None
        return self._waiting.pop(0)

    def take_back(self) -> Pending | None:
        """Removes the message that was added last."""
        message = self._waiting.pop() if self._waiting else None
        if not self._waiting:
            self.held = False
        return message

    def clear(self) -> None:
        self._waiting.clear()
        self.held = False
