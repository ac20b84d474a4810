"""A conversation as a tree: editing and regenerating add siblings, nothing is written over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from mlx_mistral.errors import SessionError

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What making a reply took."""

    tokens: int
    seconds: float
    tps: float
    """Tokens of the reply a second, once it had begun."""
    first_token_seconds: float | None
    """None where no token came."""
    reason: str
    """stop, length or stopped, as the engine says."""
    model: str
    prompt_tokens: int | None = None
    reused_tokens: int | None = None
    """Of the prompt, how many a cache held. Both None where nobody counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message. Of two the later one has the greater id, so a parent's is below its child's."""

    id: int
    parent: int | None
    """The message that this one follows; None: it opens the conversation."""
    role: str
    content: str
    created: float
    """Seconds since 1970, UTC."""
    complete: bool = True
    """False: a reply that is being written, or whose program ended before it was."""
    statistics: Statistics | None = None
    """Of a complete reply."""
    token_ids: tuple[int, ...] = ()
    """Of a complete reply, as its model made it; its text may be written in other tokens too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a new message goes."""

    parent: int | None
    role: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """All messages of a conversation by id, and the leaf at which it is being read.

    Immutable: what changes it returns another. The leaf is None where there are no messages, and
    a message that nothing follows elsewhere.
    Raises: SessionError: a message follows none of the earlier ones, or the leaf is no leaf.
    """

    messages: Mapping[int, Message] = field(default_factory=dict)
    leaf: int | None = None
    _children: dict[int | None, list[int]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        children: dict[int | None, list[int]] = {None: []}
        for id in sorted(self.messages):
            parent = self.messages[id].parent
            if parent not in children:
                raise SessionError(
                    f"message {id} follows message {parent}, which is not an earlier message of "
                    "its conversation; the conversation is damaged: take it from another copy"
                )
            children[parent].append(id)
            children[id] = []
        object.__setattr__(self, "_children", children)
        if children.get(self.leaf, [0]):
            raise SessionError(f"the leaf {self.leaf} is none; name a message that none follows")

    @classmethod
    def of(cls, messages: Iterable[Message], leaf: int | None = None) -> Tree:
        """A tree read at `leaf`, or at the newest leaf below it, or at the newest of all.

        Raises: SessionError: a message follows none of the earlier ones.
        """
        known = {message.id: message for message in messages}
        newest = max(known, default=None)
        tree = cls(messages=known, leaf=newest)
        return tree if leaf not in known else replace(tree, leaf=tree.newest_leaf(leaf))

    def __getitem__(self, id: int) -> Message:
        """Raises: SessionError: there is no such message."""
        try:
            return self.messages[id]
        except KeyError:
            raise SessionError(
                f"the conversation has no message {id}; reopen it if another window changed it"
            ) from None

    def __len__(self) -> int:
        return len(self.messages)

    def path(self, to: int | None = None) -> tuple[Message, ...]:
        """The messages from the first to the leaf, or to another message: what a model reads."""
        id = self.leaf if to is None else to
        path: list[Message] = []
        while id is not None:
            path.append(self[id])
            id = path[-1].parent
        return tuple(reversed(path))

    def siblings(self, id: int) -> tuple[Message, ...]:
        """The versions of a message, itself included, the oldest first."""
        return tuple(self.messages[other] for other in self._children[self[id].parent])

    def position(self, id: int) -> tuple[int, int]:
        """Which of how many versions a message is: (2, 3) is the second of three."""
        versions = self._children[self[id].parent]
        return versions.index(id) + 1, len(versions)

    def sibling(self, id: int, step: int) -> int:
        """The version `step` further (back if negative), or the last in that direction."""
        versions = self._children[self[id].parent]
        return versions[min(max(versions.index(id) + step, 0), len(versions) - 1)]

    def newest_leaf(self, id: int) -> int:
        """The most recent leaf that a message leads to; itself where nothing follows it."""
        return max(self.subtree(id))  # ids grow downwards, so the greatest is a leaf

    def subtree(self, id: int) -> frozenset[int]:
        """A message and all that follow it, in every branch."""
        found = [self[id].id]
        for other in found:  # grows while it is walked
            found.extend(self._children[other])
        return frozenset(found)

    def place_of_edit(self, id: int) -> Place:
        """Where another version of a message goes."""
        return Place(parent=self[id].parent, role=self[id].role)

    def place_of_reply(self, id: int) -> Place:
        """Where a reply to a message goes; to a reply: where another version of it goes.

        Raises: SessionError: the message is a reply that answers nothing.
        """
        message = self[id]
        parent = message.parent if message.role == "assistant" else id
        if parent is None:
            raise SessionError(f"message {id} answers nothing; edit it instead")
        return Place(parent=parent, role="assistant")

    def add(self, message: Message) -> Tree:
        """With a new message, read at it. Raises: SessionError: it follows no earlier message."""
        return Tree(messages={**self.messages, message.id: message}, leaf=message.id)

    def update(self, message: Message) -> Tree:
        """With what a message has become: longer, or complete."""
        if self[message.id].parent != message.parent:
            raise SessionError(f"message {message.id} cannot move; add another one instead")
        return replace(self, messages={**self.messages, message.id: message})

    def switch(self, id: int) -> Tree:
        """Read at the most recent leaf that a message leads to."""
        return replace(self, leaf=self.newest_leaf(id))

    def delete(self, id: int) -> Tree:
        """Without a message and all that follow it.

        Where that was being read, the nearest version of the message is read instead, the one
        before it rather than the one after; where there is none, what came before.
        """
        gone = self.subtree(id)
        rest = {other: self.messages[other] for other in self.messages if other not in gone}
        if self.leaf not in gone:
            return Tree(messages=rest, leaf=self.leaf)
        others = [other for other in (self.sibling(id, -1), self.sibling(id, 1)) if other != id]
        return Tree.of(rest.values(), others[0] if others else self[id].parent)
