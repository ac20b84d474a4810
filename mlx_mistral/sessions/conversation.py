"""One open conversation: its tree in memory and in the store, changed together."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlx_mistral.errors import SessionError

from .codec import Setting
from .draft import Draft
from .rows import Session
from .store import Store
from .tree import Message, Place, Statistics, Tree


class Conversation:
    """What a window reads and writes.

    Each change is on disk first and then in `tree`; where the disk refuses it (SessionError), the
    tree stays as it was. A conversation is put on disk with its first message.
    """

    def __init__(
        self, store: Store, *, model: str = "", settings: Mapping[str, Setting] | None = None
    ) -> None:
        """A new one."""
        self.store = store
        self.session: Session | None = None
        """None until there is something to keep."""
        self.tree = Tree()
        self._model = model
        self._settings = dict(settings or {})

    @classmethod
    def open(cls, store: Store, session: int) -> Conversation:
        """Raises: SessionError: it is not there."""
        conversation = cls(store)
        conversation.session = store.session(session)
        conversation.tree = store.tree(session)
        return conversation

    @property
    def model(self) -> str:
        return self.session.model if self.session else self._model

    @property
    def settings(self) -> Mapping[str, Setting]:
        return self.session.settings if self.session else self._settings

    def configure(self, *, model: str, settings: Mapping[str, Setting]) -> None:
        """With another model or other settings from here on."""
        if self.session:
            self.session = self.store.configure(self.session.id, model=model, settings=settings)
        else:
            self._model, self._settings = model, dict(settings)

    def reload(self) -> None:
        """Takes over what other windows have changed, read at the leaf of this one."""
        if self.session:
            self.session = self.store.session(self.session.id)
            tree = self.store.tree(self.session.id)
            known = self.tree.leaf in tree.messages
            self.tree = Tree.of(tree.messages.values(), self.tree.leaf) if known else tree

    def say(self, content: str, role: str = "user") -> Message:
        """Adds a message after the one that is being read."""
        return self._add(Place(parent=self.tree.leaf, role=role), content)

    def edit(self, message: int, content: str) -> Message:
        """Adds another version of a message, which is then read; nothing follows it yet."""
        return self._add(self.tree.place_of_edit(message), content)

    def reply(self, to: int | None = None, *, clock: Callable[[], float] | None = None) -> Draft:
        """Begins a reply to a message (None: to the last), or another version of a reply.

        Raises: SessionError: there is no message that it could answer.
        """
        to = self.tree.leaf if to is None else to
        if to is None:
            raise SessionError("the conversation has no message to answer; write one first")
        message = self._add(self.tree.place_of_reply(to), "", complete=False)
        return Draft(self.store, message, clock=clock) if clock else Draft(self.store, message)

    def finish(self, draft: Draft, statistics: Statistics | None = None) -> Message:
        """Ends a reply, whether or not it is still the one being read."""
        message = draft.finish(statistics)
        if message.id in self.tree.messages:
            self.tree = self.tree.update(message)
        if self.session:
            self.session = self.store.session(self.session.id)
        return message

    def switch(self, message: int) -> None:
        """Reads the most recent branch through a message."""
        self._read(self.tree.switch(message))

    def delete(self, message: int) -> None:
        """Deletes a message and all that follow it, for good."""
        tree = self.tree.delete(message)
        if self.session:
            self.store.remove(self.session.id, message)
        self._read(tree)

    def _read(self, tree: Tree) -> None:
        if self.session:
            self.session = self.store.read_at(self.session.id, tree.leaf)
        self.tree = tree

    def _add(self, place: Place, content: str, *, complete: bool = True) -> Message:
        if self.session is None:
            self.session = self.store.create(model=self._model, settings=self._settings)
        message = self.store.add(
            self.session.id, place.parent, place.role, content, complete=complete
        )
        self.tree = self.tree.add(message)
        self.session = self.store.session(self.session.id)
        return message
