"""The whole window: the chat with the machine at work, and the screens that open over it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from textual import on
from textual.app import ComposeResult, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import ModalScreen, Screen

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.live.commands import Watch
from mlx_mistral.live.events import Piece
from mlx_mistral.sessions.preferences import (
    Preferences,
    default_path,
    load_preferences,
    save_preferences,
)

from .app import ChatApp
from .bridge import Batch
from .chat.settings import as_preferences
from .commands.parse import Command
from .footer import KeyLine
from .panels.machine import MachinePanel
from .panels.status_line import StatusLine
from .panels.token_view import TokenView
from .pickers.model_rows import ModelProvider
from .pickers.models import ModelPicker
from .pickers.sessions import Opened, SessionPicker
from .settings import SettingsForm
from .settings_form import Chosen
from .transfer import exported, imported
from .visible import one_line

CACHE_BITS = (8, 4)
"""That keys and values may have besides those of activations."""


class TokenScreen(ModalScreen[tuple[int, ...] | None]):
    """A reply token by token. Ends with the ids to go on from, or None."""

    DEFAULT_CSS = "TokenScreen { background: $surface; }"

    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__()
        self._pieces = pieces

    def compose(self) -> ComposeResult:
        yield TokenView(self._pieces[0].id if self._pieces else 0, self._pieces)
        yield KeyLine()

    @on(TokenView.ContinueFrom)
    def _go_on(self, event: TokenView.ContinueFrom) -> None:
        self.dismiss(event.begun)

    @on(TokenView.Closed)
    def _close(self) -> None:
        self.dismiss(None)


class ChatWindow(ChatApp):
    """The chat with its panels and lists. `models` knows what can be loaded."""

    DEFAULT_CSS = "MachinePanel { dock: right; margin-bottom: 1; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f3", "machine", "Machine"),
        Binding("f4", "settings", "Settings", show=False),
        Binding("f5", "models", "Models", show=False),
        Binding("f9", "tokens", "Tokens", show=False),
        Binding("ctrl+o", "sessions", "Conversations", show=False),
    ]
    models: ModelProvider | None = None

    @property
    def preferences_path(self) -> Path:
        """Where what conversations begin with is kept."""
        return default_path()

    def on_mount(self) -> None:
        # Textual calls each class's own on_mount, this one first.
        self._watch = Watch()
        self._pieces: list[Piece] = []
        """The tokens of the last reply, where probabilities were watched."""
        self._status, self._machine = StatusLine(), MachinePanel()
        self.call_later(self._furnish)

    async def _furnish(self) -> None:
        await self.chat.mount(self._status, before=self.chat.query_one(KeyLine))
        await self.chat.mount(self._machine, before=0)
        self.told.subscribe(self.chat, self._show)
        if self.models is not None:
            self.run_worker(self._name_models(self.models))

    async def _name_models(self, models: ModelProvider) -> None:
        """What can be completed after /model; a cache that cannot be read offers nothing."""
        with contextlib.suppress(MlxMistralError, OSError):
            names = [row.name for row in await asyncio.to_thread(models.rows)]
            self.chat.completion.model_names = lambda: names

    def _show(self, events: Batch) -> None:
        for event in events:
            if isinstance(event, Piece):
                if self._watch.probabilities:
                    self._remember(event)
            else:
                self._status.show(event)
                self._machine.show(event)

    def _remember(self, piece: Piece) -> None:
        if self._pieces and self._pieces[0].id != piece.id:
            self._pieces.clear()
        self._pieces.append(piece)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        yield SystemCommand("Machine", "Show or hide the machine at work", self.action_machine)
        yield SystemCommand("Settings", "How replies are made", self.action_settings)
        yield SystemCommand("Models", "Load or pull a model", self.action_models)
        yield SystemCommand("Tokens", "The last reply token by token", self.action_tokens)
        yield SystemCommand("Conversations", "Open, search, rename", self.action_sessions)
        yield SystemCommand("Import", "Take over a conversation from a file", self.action_import)

    async def carry_out(self, command: Command) -> None:
        value = str(command.value or "")
        match command.name:
            case "model":
                self.action_models()
            case "stats":
                self.action_machine()
            case "tokens":
                self.action_tokens()
            case "search":
                self.action_sessions(value)
            case "export":
                self.run_worker(self._report(self._export(value)))
            case "import":
                self.run_worker(self._report(self._import(value)))
            case _:
                await super().carry_out(command)

    def action_machine(self) -> None:
        """Shows or hides the machine at work."""
        self._machine.toggle()

    @on(MachinePanel.Opened)
    def _machine_opened(self, event: MachinePanel.Opened) -> None:
        self._look(replace(self._watch, experts=event.experts))

    def action_settings(self) -> None:
        """Opens the form of settings."""
        form = SettingsForm(
            self.chat.settings,
            theme=self.theme,
            themes=sorted(self.available_themes),
            cache_bits=CACHE_BITS,
            defaults=self.preferences_path,
        )
        self.push_screen(form, self._settings_chosen)

    def _settings_chosen(self, chosen: Chosen | None) -> None:
        if chosen is not None:
            self.chat.settings, self.theme = chosen.settings, chosen.theme
            self.keep_settings()
            if chosen.as_defaults:
                self.run_worker(self._report(self._prefer(chosen)))

    async def _prefer(self, chosen: Chosen) -> str:
        """Writes the defaults. Raises: SessionError: what is there is none, or stays."""

        def write() -> Preferences:
            before = load_preferences(self.preferences_path)
            preferences = as_preferences(chosen.settings, chosen.theme, before)
            save_preferences(self.preferences_path, preferences)
            return preferences

        self.preferences = await asyncio.to_thread(write)
        return f"conversations begin like this from now on: written to {self.preferences_path}"

    def action_models(self) -> None:
        """Opens the list of models."""
        if self.models is None:
            self.notify("No list of models here; /model NAME loads one.", markup=False)
            return
        self.push_screen(ModelPicker(self.models), self._model_chosen)

    def _model_chosen(self, name: str | None) -> None:
        if name is not None:
            self.load(name)

    def action_sessions(self, query: str = "") -> None:
        """Opens the list of conversations."""
        if self.store is None:
            self.notify("Nothing is kept in this window.", markup=False)
            return
        self.push_screen(SessionPicker(self.store, query=query), self._session_chosen)

    def _session_chosen(self, opened: Opened | None) -> None:
        if opened is not None:
            self.run_worker(self._report(self.open_session(opened.session)))

    @on(SessionPicker.ExportAsked)
    def _export_asked(self, event: SessionPicker.ExportAsked) -> None:
        self.run_worker(self._export_listed(event.picker, event.session))

    async def _export_listed(self, picker: SessionPicker, id: int) -> None:
        assert self.store is not None
        try:
            picker.note(await self.store.ask(lambda store: exported(store, id, "")))
        except (MlxMistralError, OSError) as error:
            picker.note(str(error))

    @on(SessionPicker.ImportAsked)
    def action_import(self) -> None:
        """Begins the command that takes over a conversation from a file."""
        self.chat.composer.write("/import ")
        self.chat.composer.focus()

    async def _import(self, path: str) -> str | None:
        if self.store is None:
            return "nothing is kept in this window; open one that keeps conversations"
        session = await self.store.ask(lambda store: imported(store, path))
        await self.open_session(session.id)
        return f"imported: {one_line(session.title)}, {session.n_messages} messages"

    def action_tokens(self) -> None:
        """Opens the last reply token by token; turns watching on where it was off."""
        if self._pieces:
            self.push_screen(TokenScreen(self._pieces), self._continue_from)
            return
        self._look(replace(self._watch, probabilities=True))
        self.notify("Tokens are watched from the next reply on; F9 then shows them.", markup=False)

    async def _continue_from(self, begun: tuple[int, ...] | None) -> None:
        leaf = self.chat.conversation.tree.leaf
        if begun and leaf is not None:
            await self.chat.regenerate(leaf, begun)

    def _look(self, watch: Watch) -> None:
        self._watch = watch
        self.engine.submit(watch)

    async def _report(self, act: Awaitable[str | None]) -> None:
        """Shows what came of something that is done with a file or the store."""
        try:
            line = await act
        except (MlxMistralError, OSError) as error:
            await self.chat.say("error", str(error))
        else:
            if line:
                await self.chat.say("notice", line)

    async def _export(self, path: str) -> str:
        line = await self.ask_session(lambda store, id: exported(store, id, path))
        return line or "there is nothing to export yet; write a message first"
