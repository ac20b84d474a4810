"""The chat: what was said above, what is to be said below."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Footer, Static, TextArea

from mlx_mistral.live.commands import Command, Reply, Settings
from mlx_mistral.live.events import (
    Counted,
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    Piece,
    Progress,
    Reading,
)
from mlx_mistral.live.protocol import Engine
from mlx_mistral.tui.commands.attach import (
    Attachment,
    AttachmentError,
    attached,
    complete_path,
    mentions,
    read,
)
from mlx_mistral.tui.commands.complete import Candidate, complete
from mlx_mistral.tui.commands.parse import Command as SlashCommand
from mlx_mistral.tui.commands.parse import Refused, is_command, message_of, parse
from mlx_mistral.tui.visible import visible

from .attached import Attached, escaped
from .candidates import Candidates
from .composer import Composer
from .conversation import SAVE_SECONDS, Conversation
from .entry import Entry, read_note
from .history import History
from .queue import Pending, Queue
from .transcript import Transcript
from .waiting import Waiting


class ChatScreen(Screen[None]):
    """Drives an engine by what is typed and shows what the engine tells."""

    DEFAULT_CSS = """
    ChatScreen > .line { height: 1; padding: 0 1; color: $text-muted; }
    ChatScreen > #below { display: none; color: $text-accent; text-style: bold; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop"),
        Binding("tab", "messages", "Messages", show=True, priority=False),
        Binding("f8", "unqueue", "Unqueue", show=False),
        Binding("ctrl+r", "again", "Again", show=False),
        Binding("ctrl+end", "newest", "Newest", show=False),
        Binding("pageup", "page(-1)", "Page up", show=False),
        Binding("pagedown", "page(1)", "Page down", show=False),
    ]

    class Asked(Message):
        """A slash command was written."""

        def __init__(self, command: SlashCommand) -> None:
            super().__init__()
            self.command = command

    def __init__(
        self, engine: Engine, conversation: Conversation, settings: Settings, model: str
    ) -> None:
        super().__init__()
        self.engine = engine
        self.conversation = conversation
        self.settings = settings
        self.model = model
        self.queue = Queue()
        self.is_loaded = False
        self.transcript = Transcript()
        self.composer = Composer()
        self.composer.candidates = self._candidates_at
        self.model_names: Callable[[], Sequence[str]] = tuple
        """Of models that /model may switch to."""
        self.folder = Path.cwd()
        """What an @path is relative to."""
        self._waiting = Waiting()
        self._attached = Attached()
        self._candidates = Candidates()
        self._state = Static(markup=False, classes="line", id="state")

    def compose(self) -> ComposeResult:
        yield self.transcript
        yield Static(Content("↓ new text below (Ctrl+End)"), classes="line", id="below")
        yield self._waiting
        yield self._state
        yield self._attached
        yield self._candidates
        yield self.composer
        yield Footer(show_command_palette=True)

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
            self.queue.clear()
        self.conversation = conversation
        self.composer.prompts = History(map(escaped, conversation.prompts()))
        await self.transcript.show(conversation.entries())
        self._show_queue()
        self.refresh_bindings()

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

    async def say(self, role: str, line: str) -> None:
        """A line in the transcript that is not part of the conversation."""
        await self.transcript.add(Entry(role=role, text=line))

    def load(self, command: Command, model: str) -> None:
        """Has another model loaded; what is sent meanwhile waits."""
        self.is_loaded = False
        self._attached.allow(False)
        self.model = model
        self.engine.submit(command)
        self._tell(f"loading {model}…")

    @on(Composer.Sent)
    async def _sent(self, event: Composer.Sent) -> None:
        if event.edits is not None or "\n" in event.text or not is_command(event.text):
            await self._send(event.text, event.edits)
            return
        asked = parse(event.text)
        if isinstance(asked, Refused):
            await self.say("error", asked.error)
            self.composer.write(event.text + self.composer.whole_text)
        else:
            self.post_message(self.Asked(asked))

    async def _send(self, written: str, edits: int | None) -> None:
        """Sends a message with the files it names; one that names a wrong file is given back."""
        try:
            text = await self._with_files(message_of(written))
        except AttachmentError as error:
            await self.say("error", str(error))
            if edits is not None:
                self.composer.begin_edit(edits, written)
            else:
                self.composer.write(written + self.composer.whole_text)
        else:
            await self.send(text, edits, written)

    async def send(self, text: str, edits: int | None = None, written: str = "") -> None:
        """Sends a message now, or when its turn comes. An empty one lets the queue go on.

        written: what the composer shows if the message is taken back.
        """
        self.queue.held = False
        if text.strip():
            self.queue.add(Pending(text=text, edits=edits, written=written or escaped(text)))
        await self._go_on()

    @on(Composer.Reached)
    def _take_back(self) -> None:
        message = self.queue.take_back()
        if message is None:
            self.composer.recall_earlier()
            return
        if message.edits is not None:
            self.composer.begin_edit(message.edits, message.written or escaped(message.text))
        else:
            self.composer.write(message.written or escaped(message.text))
        self._show_queue()

    @on(Composer.Offered)
    def _offered(self) -> None:
        self._candidates.show(self.composer.choice, max(20, self.size.width - 2))

    @on(TextArea.Changed)
    def _written(self) -> None:
        self._attached.look(self.composer.text, self.folder)

    @on(Attached.Asked)
    def _ask(self, event: Attached.Asked) -> None:
        self.engine.submit(event.count)

    @on(Transcript.Edit)
    def _edit(self, event: Transcript.Edit) -> None:
        if event.entry.id is not None:
            self.composer.begin_edit(event.entry.id, escaped(event.entry.text))
            self.composer.focus()

    @on(Transcript.Regenerate)
    async def _regenerate(self, event: Transcript.Regenerate) -> None:
        if event.entry.id is not None:
            await self.regenerate(event.entry.id)

    async def regenerate(self, id: int, begun: tuple[int, ...] = ()) -> None:
        """Makes a reply anew, or the first one to an own message."""
        if not self._may_change():
            return
        await self._begin(self.conversation.regenerate(id, self.settings, self.model, begun))

    @on(Transcript.Switch)
    async def _switch(self, event: Transcript.Switch) -> None:
        if event.entry.id is None or not self._may_change():
            return
        place = self.transcript.selected
        self.conversation.switch(event.entry.id, event.step)
        await self.transcript.show(self.conversation.entries())
        if place is not None:
            await self.transcript.choose(place)

    @on(Transcript.Copied)
    def _copied(self, event: Transcript.Copied) -> None:
        self.app.copy_to_clipboard(event.text)
        self.notify(f"Copied {event.what}, {len(event.text):,} characters.", markup=False)

    @on(Transcript.Left)
    def _left(self) -> None:
        self.composer.focus()

    @on(Transcript.Behind)
    def _behind(self, event: Transcript.Behind) -> None:
        self.query_one("#below").display = event.behind

    def action_stop(self) -> None:
        """Stops a reply; else leaves an edit; else goes back to the composer."""
        running = self.conversation.running
        if running is not None and not running.stopping:
            running.stopping = True
            self.queue.held = bool(self.queue)
            self.engine.stop(running.id)
            self._tell("stopping…")
            self._show_queue()
        elif self.composer.edits is not None:
            self.composer.end_edit()
            self.composer.focus()
        elif self.focused is not self.composer:
            self.composer.focus()

    def action_messages(self) -> None:
        """From the composer to the messages and back."""
        if self.focused is self.composer:
            self.transcript.focus()
        else:
            self.composer.focus()

    def action_unqueue(self) -> None:
        self.queue.take_back()
        self._show_queue()

    async def action_again(self) -> None:
        """Makes the last reply anew."""
        leaf = self.conversation.tree.leaf
        if leaf is not None:
            await self.regenerate(leaf)

    async def go_to_branch(self, number: str | int | float | None = None) -> None:
        """To another version of the last message that has several; None: to the next, in turn."""
        tree = self.conversation.tree
        branching = [each.id for each in tree.path() if tree.position(each.id)[1] > 1]
        if not branching:
            await self.say("error", "there is one branch; /edit or /retry begins another")
        elif self._may_change():
            place, versions = tree.position(branching[-1])
            wanted = place % versions + 1 if number is None else int(number)
            self.conversation.switch(branching[-1], wanted - place)
            await self.transcript.show(self.conversation.entries())

    def edit_message(self, number: str | int | float | None = None) -> None:
        """Opens the own message of a number, or the last, in the composer."""
        own = [each for each in self.conversation.tree.path() if each.role == "user"]
        place = len(own) if number is None else int(number)
        if 0 < place <= len(own):
            self.composer.begin_edit(own[place - 1].id, escaped(own[place - 1].content))
            self.composer.focus()
        else:
            self.notify(f"There are {len(own)} messages of yours.", markup=False)

    def action_newest(self) -> None:
        self.run_worker(self.transcript.action_last(), exclusive=True, group="newest")

    def action_page(self, step: int) -> None:
        if step < 0:
            self.transcript.action_page_up()
        else:
            self.transcript.action_page_down()

    def on_resize(self) -> None:
        self._show_queue()

    async def _with_files(self, message: str) -> str:
        def read_one(path: str) -> Attachment:
            return read(path, self.folder)

        text: str
        if mentions(message):
            text, _ = await asyncio.to_thread(attached, message, read_one)
        else:
            text, _ = attached(message, read_one)
        return text

    def _candidates_at(self, text: str, cursor: int) -> list[Candidate]:
        if is_command(text) and (self.composer.edits is not None or "\n" in text):
            return []
        found: list[Candidate] = complete(text, cursor, models=self._models, paths=self._paths)
        return found

    def _models(self, begun: str) -> list[str]:
        return [name for name in self.model_names() if begun.lower() in name.lower()]

    def _paths(self, begun: str) -> list[str]:
        """Without those that cannot be written in a line."""
        found = complete_path(begun, self.folder)
        return [path for path in found if visible(path) == path and '"' not in path]

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
        self._tell("reading…")
        self.engine.submit(reply)

    async def _hear(self, event: Event) -> None:
        match event:
            case Loading():
                self._tell(_loading(event))
            case Loaded():
                self.is_loaded = True
                self._attached.allow(True)
                self._tell("")
                await self._go_on()
            case LoadFailed():
                self.is_loaded = False
                self._attached.allow(False)
                self._tell("no model is loaded")
                await self.say("error", event.error)
            case Reading() if self._is_ours(event.id):
                self._tell(f"reading {event.done:,} of {event.total:,} new tokens")
            case Progress() if self._is_ours(event.id):
                self._tell(f"{event.reply_tokens:,} tokens, {event.decode_tps:,.1f} a second")
            case Finished() if self._is_ours(event.id):
                note = read_note(event.progress, event.reason)
                await self._end(event.progress, event.reason, note)
            case Failed() if self._is_ours(event.id):
                await self._end(None, "failed", "not finished")
                await self.say("error", event.error)
                self.queue.held = bool(self.queue)
                self._show_queue()
            case Counted() | Failed():
                self._attached.hear(event)
            case _:
                pass

    async def _end(self, progress: Progress | None, reason: str, note: str) -> None:
        message = self.conversation.end(progress, reason, note)
        if message is None:
            await self.transcript.drop_live()
            if reason != "failed":
                await self.say("notice", f"No text came ({reason}); Ctrl+R asks again. {note}")
        else:
            await self.transcript.finish(self.conversation.entry(message))
        self._tell("")
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

    def _tell(self, line: str) -> None:
        self._state.update(Content(line))


def _loading(event: Loading) -> str:
    if not event.total:
        return f"loading {event.model}: {event.stage}"
    return f"loading {event.model}: {event.stage}, {event.done / event.total:.0%}"
