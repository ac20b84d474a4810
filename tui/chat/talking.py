"""Talking with an engine: what is asked of it, and what is shown of what it tells."""

from __future__ import annotations

from collections.abc import Iterable

from textual.screen import Screen

from mlx_mistral.live.commands import Command, Reply, Settings
from mlx_mistral.live.events import (
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    Noted,
    Piece,
    Progress,
    Reading,
)
from mlx_mistral.live.protocol import Engine

from .attached import escaped
from .composer import Composer
from .conversation import SAVE_SECONDS, Conversation
from .entry import Entry, read_note
from .history import History
from .queue import Pending, Queue
from .transcript import Transcript
from .waiting import Waiting


class TalkingScreen(Screen[None]):
    """One conversation with one engine. Which keys there are is for those who inherit."""

    def __init__(
        self, engine: Engine, conversation: Conversation, settings: Settings, model: str
    ) -> None:
        super().__init__()
        self.engine = engine
        self.conversation = conversation
        self.settings = settings
        self.model = model
        self.queue = Queue()
        self.is_loaded = self.is_loading = False
        self.transcript = Transcript()
        self.composer = Composer()
        self._waiting = Waiting()

    async def on_mount(self) -> None:
        self.composer.focus()
        self.set_interval(SAVE_SECONDS, lambda: self.conversation.save())
        await self.show_conversation(self.conversation)

    async def show_conversation(self, conversation: Conversation) -> None:
        """Opens another conversation; a reply of the one before is stopped and kept."""
        old = self.conversation
        if old is not conversation:
            conversation.next_reply = max(conversation.next_reply, old.next_reply)
            if old.running is not None:
                self.engine.stop(old.running.id)
                old.end(None, "stopped", "stopped")
                self.composer.tell("")
            self.queue.clear()
        self.conversation = conversation
        self.composer.prompts = History(map(escaped, conversation.prompts()))
        await self.transcript.show(conversation.entries())
        self._show_queue()

    async def say(self, role: str, line: str) -> None:
        """A line in the transcript that is not part of the conversation."""
        await self.transcript.add(Entry(role=role, text=line))

    def load(self, command: Command, model: str) -> None:
        """Has another model loaded; what is sent meanwhile waits."""
        self.is_loaded, self.is_loading = False, True
        self.model = model
        self.engine.submit(command)
        self.composer.tell(f"loading {model}…")

    async def send(self, text: str, edits: int | None = None, written: str = "") -> None:
        """Sends a message now, or when its turn comes. An empty one lets the queue go on.

        written: what the composer shows if the message is taken back.
        """
        self.queue.held = False
        if text.strip():
            self.queue.add(Pending(text=text, edits=edits, written=written or escaped(text)))
        await self._go_on()

    async def regenerate(self, id: int, begun: tuple[int, ...] = ()) -> None:
        """Makes a reply anew, or the first one to an own message."""
        if self._may_change():
            await self._begin(self.conversation.regenerate(id, self.settings, self.model, begun))

    def stop(self) -> bool:
        """Stops the reply that is being made. False: there is none, or it is being stopped."""
        running = self.conversation.running
        if running is None or running.stopping:
            return False
        running.stopping = True
        self.queue.held = bool(self.queue)
        self.engine.stop(running.id)
        self.composer.tell("stopping…")
        self._show_queue()
        return True

    def stop_loading(self) -> bool:
        """Ends the loading of a model. False: there is none, or it is being ended."""
        if not self.is_loading:
            return False
        self.is_loading = False
        self.engine.stop_loading()
        self.composer.tell("stopping…")
        return True

    async def hear(self, events: Iterable[Event]) -> None:
        """Shows what an engine has told since the last frame, in order."""
        texts: list[str] = []
        for event in events:
            running = self.conversation.running
            if isinstance(event, Piece):
                if running is not None and event.id == running.id and event.text:
                    texts.append(event.text)
                continue
            await self._write(texts)
            texts = []
            await self._hear(event)
        await self._write(texts)

    async def _hear(self, event: Event) -> None:
        tell = self.composer.tell
        match event:
            case Loading():
                tell(_loading(event))
            case Loaded():
                self.is_loaded, self.is_loading = True, False
                self.model = event.facts.name
                tell("")
                await self._go_on()
            case LoadFailed():
                self.is_loaded = self.is_loading = False
                tell("no model is loaded; F5 chooses one")
                await self.say("error", event.error)
            case Reading() if self._is_ours(event.id):
                tell(f"reading {event.done:,} of {event.total:,} new tokens")
            case Progress() if self._is_ours(event.id):
                tell(f"{event.reply_tokens:,} tokens, {event.decode_tps:,.1f} a second")
            case Finished() if self._is_ours(event.id):
                note = read_note(event.progress, event.reason)
                await self._end(event.progress, event.reason, note, event.token_ids)
            case Noted():
                await self.say("notice", event.line)
            case Failed() if self._is_ours(event.id):
                await self._end(None, "failed", "not finished")
                await self.say("error", event.error)
                self.queue.held = bool(self.queue)
                self._show_queue()
            case _:
                pass

    def _may_change(self) -> bool:
        if not self.is_loaded:
            self.notify("The model is still being loaded.", markup=False)
        elif self.conversation.running is not None:
            self.notify("A reply is being made; Esc stops it.", markup=False)
        else:
            return True
        return False

    async def _go_on(self) -> None:
        """Sends the next message if its turn has come."""
        if self.is_loaded and self.conversation.running is None:
            message = self.queue.next()
            if message is not None:
                await self._begin(self.conversation.send(message, self.settings, self.model))
        self._show_queue()

    async def _begin(self, reply: Reply) -> None:
        await self.transcript.show(self.conversation.entries())
        self.composer.tell("reading…")
        self.engine.submit(reply)

    async def _end(
        self,
        progress: Progress | None,
        reason: str,
        note: str,
        token_ids: tuple[int, ...] = (),
    ) -> None:
        message = self.conversation.end(progress, reason, note, token_ids)
        if message is None:
            await self.transcript.drop_live()
            if reason != "failed":
                await self.say("notice", f"No text came ({reason}); Ctrl+R asks again. {note}")
        else:
            await self.transcript.finish(self.conversation.entry(message))
        self.composer.tell("")
        if reason != "failed":
            await self._go_on()

    async def _write(self, texts: list[str]) -> None:
        if texts:
            text = "".join(texts)
            self.conversation.grow(text)
            await self.transcript.write(text)

    def _is_ours(self, id: int) -> bool:
        running = self.conversation.running
        return running is not None and running.id == id

    def _show_queue(self) -> None:
        self._waiting.show(self.queue, max(20, self.size.width - 2))


def _loading(event: Loading) -> str:
    if not event.total:
        return f"loading {event.model}: {event.stage}"
    return f"loading {event.model}: {event.stage}, {event.done / event.total:.0%}"
