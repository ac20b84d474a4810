"""Where a conversation's messages go: to a session on disk, or nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Message, Statistics

Described = Callable[[], tuple[str, Mapping[str, str | int | float | bool | None]]]
"""The model and the settings that a new session starts with."""


class Keeper(Protocol):
    """What a conversation writes down, as `mlx_mistral.sessions.store.Store` does for a session."""

    session: int | None

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message: ...

    def append(self, message: Message, text: str) -> None: ...

    def complete(self, message: Message, text: str, statistics: Statistics | None) -> Message:
        """`text` is what was not yet appended."""

    def remove(self, message: int) -> None: ...

    def read_at(self, leaf: int | None) -> None: ...


class Kept:
    """A session of a store; a new one is made with its first message."""

    def __init__(self, store: Store, session: int | None, described: Described) -> None:
        self.store = store
        self.session = session
        self._described = described

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message:
        if self.session is None:
            model, settings = self._described()
            self.session = self.store.create(model=model, settings=settings).id
        return self.store.add(self.session, parent, role, content, complete=complete)

    def append(self, message: Message, text: str) -> None:
        self.store.append(message.id, text)

    def complete(self, message: Message, text: str, statistics: Statistics | None) -> Message:
        return self.store.complete(message.id, text, statistics)

    def remove(self, message: int) -> None:
        if self.session is not None:
            self.store.remove(self.session, message)

    def read_at(self, leaf: int | None) -> None:
        if self.session is not None:
            self.store.read_at(self.session, leaf)


class Unkept:
    """In memory alone."""

    session: int | None = None

    def __init__(self, first_id: int = 1) -> None:
        self._next = first_id
        self._texts: dict[int, list[str]] = {}

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message:
        id, self._next = self._next, self._next + 1
        self._texts[id] = [content]
        now = time.time()
        return Message(
            id=id, parent=parent, role=role, content=content, created=now, complete=complete
        )

    def append(self, message: Message, text: str) -> None:
        self._texts.setdefault(message.id, [message.content]).append(text)

    def complete(self, message: Message, text: str, statistics: Statistics | None) -> Message:
        content = "".join([*self._texts.pop(message.id, [message.content]), text])
        return replace(message, content=content, complete=True, statistics=statistics)

    def remove(self, message: int) -> None:
        self._texts.pop(message, None)

    def read_at(self, leaf: int | None) -> None:
        """Nothing to keep."""
