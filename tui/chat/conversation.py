"""A conversation and the reply that is being made: what to ask of an engine, what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from mlx_mistral.live.commands import Message as Said
from mlx_mistral.live.commands import Reply, Settings
from mlx_mistral.live.events import Progress
from mlx_mistral.sessions.tree import Message, Place, Statistics, Tree

from .entry import Entry, kept_note
from .keeper import Keeper
from .queue import Pending

SAVE_SECONDS = 0.5
"""Text of a reply that is being made goes to disk after this time."""


@dataclass(slots=True, kw_only=True)
class Running:
    """The reply that is being made."""

    id: int
    """Of the engine's events."""
    message: Message
    model: str
    begun: float
    text: list[str] = field(default_factory=list)
    saved: int = 0
    """How many of `text` are on disk."""
    stopping: bool = False


class Conversation:
    """Knows no widget and waits for no disk: what it says is written down by its keeper."""

    def __init__(
        self,
        keeper: Keeper,
        tree: Tree | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        first_reply: int = 1,
    ) -> None:
        self.keeper = keeper
        self.tree = tree or Tree()
        self.running: Running | None = None
        self.notes: dict[int, str] = {}
        self.next_reply = first_reply
        """No two replies of one engine may have one id, not even of two conversations."""
        self._clock = clock
        self._saved_at = 0.0

    def send(self, message: Pending, settings: Settings, model: str = "") -> Reply:
        """Adds an own message, at the end or in place of another, and asks for the reply."""
        edits = message.edits if message.edits in self.tree.messages else None
        place = (
            Place(parent=self.tree.leaf, role="user")
            if edits is None
            else self.tree.place_of_edit(edits)
        )
        return self.regenerate(self._add(place, message.text, complete=True).id, settings, model)

    def regenerate(
        self, id: int, settings: Settings, model: str = "", begun: tuple[int, ...] = ()
    ) -> Reply:
        """Asks for a reply to an own message, or for another version of a reply."""
        place = self.tree.place_of_reply(id)
        path = self.tree.path(place.parent)
        reply = self._add(place, "", complete=False)
        self.running = Running(id=self.next_reply, message=reply, model=model, begun=self._clock())
        self.next_reply += 1
        said = tuple(
            Said(role=each.role, content=each.content, token_ids=each.token_ids) for each in path
        )
        return Reply(id=self.running.id, messages=said, settings=settings, begun=begun)

    def grow(self, text: str) -> None:
        """The reply goes on; what was said is saved now and then."""
        running = self.running
        if running is None or not text:
            return
        running.text.append(text)
        if self._clock() - self._saved_at >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Everything said so far goes to disk."""
        running = self.running
        if running is None:
            return
        self._saved_at = self._clock()
        if rest := "".join(running.text[running.saved :]):
            running.saved = len(running.text)
            self.keeper.append(running.message.id, rest)

    def end(
        self,
        progress: Progress | None,
        reason: str,
        note: str,
        token_ids: tuple[int, ...] = (),
    ) -> Message | None:
        """The reply is over. Returns: what it has become; None: nothing was said."""
        running, self.running = self.running, None
        if running is None:
            return None
        text = "".join(running.text)
        if not text:
            self.tree = self.tree.delete(running.message.id)
            self.keeper.remove(running.message.id)
            self.keeper.read_at(self.tree.leaf)
            return None
        statistics = (
            None
            if progress is None
            else Statistics(
                tokens=progress.reply_tokens,
                seconds=max(0.0, self._clock() - running.begun),
                tps=max(0.0, progress.decode_tps),
                first_token_seconds=progress.first_token_seconds,
                reason=reason,
                model=running.model,
                prompt_tokens=progress.prompt_tokens,
                reused_tokens=progress.reused_tokens,
            )
        )
        rest = "".join(running.text[running.saved :])
        message = self._ended(running, text, statistics, token_ids)
        self.keeper.complete(running.message.id, rest, statistics, token_ids)
        self.notes[message.id] = note
        return message

    def switch(self, id: int, step: int) -> None:
        """Reads on in another version of a message."""
        self.tree = self.tree.switch(self.tree.sibling(id, step))
        self.keeper.read_at(self.tree.leaf)

    def entries(self) -> list[Entry]:
        """What the transcript shows."""
        return [self.entry(message) for message in self.tree.path()]

    def entry(self, message: Message) -> Entry:
        live = self.running is not None and self.running.message.id == message.id
        cut = "" if message.complete or live else "cut off: the program ended while it was written"
        return Entry(
            role=message.role,
            text=message.content,
            id=message.id,
            version=self.tree.position(message.id),
            note=self.notes.get(message.id) or kept_note(message.statistics) or cut,
            live=live,
        )

    def prompts(self) -> list[str]:
        """Own messages, the oldest first."""
        return [
            self.tree.messages[id].content
            for id in sorted(self.tree.messages)
            if self.tree.messages[id].role == "user"
        ]

    def _ended(
        self,
        running: Running,
        text: str,
        statistics: Statistics | None,
        token_ids: tuple[int, ...],
    ) -> Message:
        before = running.message
        message = Message(
            id=before.id,
            parent=before.parent,
            role=before.role,
            content=text,
            created=before.created,
            statistics=statistics,
            token_ids=token_ids,
        )
        self.tree = self.tree.update(message)
        return message

    def _add(self, place: Place, content: str, *, complete: bool) -> Message:
        message = self.keeper.add(place.parent, place.role, content, complete=complete)
        self.tree = self.tree.add(message)
        return message
