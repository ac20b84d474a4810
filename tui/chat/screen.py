"""The chat: what was said above, what is to be said below."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Static, TextArea

from mlx_mistral.live.commands import Command, Settings
from mlx_mistral.live.events import Event
from mlx_mistral.live.protocol import Engine
from mlx_mistral.tui.commands.attach import Attachment, AttachmentError, attached, mentions, read
from mlx_mistral.tui.commands.parse import Command as SlashCommand
from mlx_mistral.tui.commands.parse import Refused, is_command, message_of, parse
from mlx_mistral.tui.footer import KeyLine

from .attached import Attached, escaped
from .branching import BranchingScreen
from .candidates import Candidates
from .completion import Completion
from .composer import Composer
from .conversation import Conversation
from .transcript import Transcript


class ChatScreen(BranchingScreen):
    """Drives an engine by what is typed and shows what the engine tells."""

    DEFAULT_CSS = """
    ChatScreen > #below { height: 1; padding: 0 1; display: none;
                          color: $text-accent; text-style: bold; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "messages", "Messages"),
        Binding("escape", "stop", "Stop"),
        Binding("f8", "unqueue", "Unqueue", show=False),
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
        super().__init__(engine, conversation, settings, model)
        self.completion = Completion(self.composer.offer)
        self.composer.completion = self.completion
        self._attached = Attached()
        self._candidates = Candidates()

    def compose(self) -> ComposeResult:
        yield self.transcript
        yield Static(Content("↓ new text below (Ctrl+End)"), id="below")
        yield self._waiting
        yield self._attached
        yield self._candidates
        yield self.composer
        yield KeyLine()

    async def hear(self, events: Iterable[Event]) -> None:
        events = tuple(events)
        self._attached.hear(events)
        await super().hear(events)

    def load(self, command: Command, model: str) -> None:
        self._attached.allow(False)
        super().load(command, model)

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

    async def _with_files(self, message: str) -> str:
        def read_one(path: str) -> Attachment:
            return read(path, self.completion.folder)

        text: str
        if mentions(message):
            text, _ = await asyncio.to_thread(attached, message, read_one)
        else:
            text, _ = attached(message, read_one)
        return text

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
        self._attached.look(self.composer.text, self.completion.folder)

    @on(Attached.Asked)
    def _ask(self, event: Attached.Asked) -> None:
        self.engine.submit(event.count)

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
        """Stops a reply or a loading; else leaves an edit; else goes back to the composer."""
        if self.stop() or self.stop_loading():
            return
        if self.composer.edits is not None:
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

    def action_newest(self) -> None:
        self.run_worker(self.transcript.action_last(), exclusive=True, group="newest")

    def action_page(self, step: int) -> None:
        if step < 0:
            self.transcript.action_page_up()
        else:
            self.transcript.action_page_down()

    def on_resize(self) -> None:
        self._show_queue()
