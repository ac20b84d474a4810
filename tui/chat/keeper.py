"""Where a conversation's messages go: to a session on disk, or nowhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions.codec import Setting
from mlx_mistral.sessions.plain_text import storable
from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Message, Statistics
from mlx_mistral.tui.store_thread import StoreThread

Described = Callable[[], tuple[str, Mapping[str, Setting]]]
"""The model and the settings that a new session starts with."""
Result = TypeVar("Result")


class Keeper(Protocol):
    """What a conversation writes down. Nothing waits for a disk, nothing raises."""

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message: ...

    def append(self, message: int, text: str) -> None: ...

    def complete(
        self, message: int, text: str, statistics: Statistics | None, token_ids: tuple[int, ...]
    ) -> None:
        """`text` is what was not yet appended; the ids are of all of it."""

    def remove(self, message: int) -> None: ...

    def read_at(self, leaf: int | None) -> None: ...


class Unkept:
    """In memory alone."""

    def __init__(self, first_id: int = 1) -> None:
        self._next = first_id

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message:
        id, self._next = self._next, self._next + 1
        return Message(
            id=id, parent=parent, role=role, content=content, created=time.time(), complete=complete
        )

    def append(self, message: int, text: str) -> None:
        """Nothing to keep, as below."""

    def complete(
        self, message: int, text: str, statistics: Statistics | None, token_ids: tuple[int, ...]
    ) -> None: ...

    def remove(self, message: int) -> None: ...

    def read_at(self, leaf: int | None) -> None: ...


class Kept(Unkept):
    """A session of a store; a new one is made with its first message.

    A message has its id at once, before the disk has given it one of its own: new ids are known
    to the window alone, those that a session was opened with are the same on both sides.
    """

    def __init__(
        self,
        store: StoreThread,
        session: int | None,
        described: Described,
        *,
        first_id: int = 1,
        failed: Callable[[str], None] = lambda line: None,
    ) -> None:
        """
        first_id: above all ids that the session has.
        failed: told once, on the store's thread, when the disk refuses; then nothing is written.
        """
        super().__init__(first_id)
        self._store = store
        self._described = described
        self._failed = failed
        # What follows is touched by the store's thread alone.
        self._session = session
        self._ids: dict[int, int] = {}
        self._has_failed = False

    def add(self, parent: int | None, role: str, content: str, *, complete: bool) -> Message:
        message = super().add(parent, role, storable(content), complete=complete)
        model, settings = self._described()

        def write(store: Store) -> None:
            if self._session is None:
                self._session = store.create(model=model, settings=settings).id
            self._ids[message.id] = store.add(
                self._session, self._on_disk(parent), role, message.content, complete=complete
            ).id

        self._write(write)
        return message

    def append(self, message: int, text: str) -> None:
        self._write(lambda store: store.append(self._ids[message], text))

    def complete(
        self, message: int, text: str, statistics: Statistics | None, token_ids: tuple[int, ...]
    ) -> None:
        self._write(lambda store: store.complete(self._ids[message], text, statistics, token_ids))

    def remove(self, message: int) -> None:
        self._write_there(lambda store, id: store.remove(id, self._ids.get(message, message)))

    def read_at(self, leaf: int | None) -> None:
        self._write_there(lambda store, id: store.read_at(id, self._on_disk(leaf)))

    def configure(self) -> None:
        """The model and the settings are other ones from here on."""
        model, settings = self._described()
        self._write_there(lambda store, id: store.configure(id, model=model, settings=settings))

    async def ask(self, act: Callable[[Store, int], Result]) -> Result | None:
        """What an act returns of the session as it is now; None: nothing is on disk.

        Raises: what the act raises.
        """
        return await self._store.ask(
            lambda store: None if self._session is None else act(store, self._session)
        )

    def _on_disk(self, id: int | None) -> int | None:
        return None if id is None else self._ids.get(id, id)

    def _write_there(self, act: Callable[[Store, int], object]) -> None:
        self._write(lambda store: self._session is not None and act(store, self._session))

    def _write(self, act: Callable[[Store], object]) -> None:
        def write(store: Store) -> None:
            if self._has_failed:
                return
            try:
                act(store)
            except SessionError as error:
                self._has_failed = True
                self._failed(f"{error} What follows is not saved.")

        self._store.submit(write)
