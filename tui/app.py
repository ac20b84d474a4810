"""The terminal chat."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar, TypeVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.message import Message
from textual.screen import Screen
from textual.signal import Signal

from mlx_mistral.errors import SessionError
from mlx_mistral.live.commands import Load, Settings
from mlx_mistral.live.events import Loaded
from mlx_mistral.live.protocol import Engine
from mlx_mistral.sessions.codec import Setting
from mlx_mistral.sessions.preferences import Preferences
from mlx_mistral.sessions.rows import Session
from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Tree

from .bridge import Batch, Bridge
from .chat.conversation import Conversation
from .chat.keeper import Keeper, Kept, Unkept
from .chat.screen import ChatScreen
from .chat.settings import after, changed_line, kept, preferred, to_keep
from .clipboard import copy_on_mac
from .commands.parse import Command
from .commands.table import help_lines
from .driver import TerminalDriver
from .store_thread import StoreThread

Result = TypeVar("Result")
DARK, LIGHT = "textual-dark", "textual-light"


class EngineTold(Message):
    """What an engine told within a frame."""

    def __init__(self, events: Batch) -> None:
        super().__init__()
        self.events = events


class ChatApp(App[None]):
    """One window: an engine, a conversation, and the screens that show them.

    `told` brings every event to whoever subscribes, a frame's worth at a time.
    """

    TITLE = "mlx-mistral"
    CSS = "ToastRack { dock: top; align: right top; margin: 0; }"  # not over what is being typed
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("f1", "keys", "Keys"),
        Binding("ctrl+p", "command_palette", "Palette", priority=True),
        Binding("ctrl+q", "quit", "Quit"),
        Binding("f2", "turn_theme", "Light/dark", show=False),
    ]

    def __init__(
        self,
        engine: Engine,
        store: Store | None = None,
        preferences: Preferences | None = None,
        model: str = "demo",
        *,
        session: int | None = None,
        context: int | None = None,
        stated: Mapping[str, Setting] | None = None,
    ) -> None:
        """A conversation goes on with `session` of the store, or is new.

        Without a store nothing is saved. `context` is of the cache, in tokens. What is `stated`
        of the settings wins over what is preferred and over what the session was kept with. The
        engine is started, and closed when the window is.
        Raises: SessionError: the session is not there.
        """
        super().__init__()
        self.animation_level = "none"  # each frame of an animation is sent over ssh
        self.preferences = preferences or Preferences()
        self.engine = engine
        self.store = None if store is None else StoreThread(store)
        self.theme = (
            self.preferences.theme if self.preferences.theme in self.available_themes else DARK
        )
        self.told: Signal[Batch] = Signal(self, "told")
        self._cache_tokens = context
        self._model = model
        self._bridge = Bridge(self._deliver)
        if store is None or session is None:
            settings, tree = preferred(self.preferences), Tree()
        else:
            settings = self._settings_of(store.session(session))
            tree = store.tree(session)
        settings = kept(settings, stated or {})
        self.chat = ChatScreen(engine, self.conversation(session, tree), settings, model)

    def conversation(self, session: int | None = None, tree: Tree | None = None) -> Conversation:
        """One that goes on with a session of the store, of which `tree` is known; or a new one."""
        keeper: Keeper = Unkept()
        if self.store is not None:
            first = max(tree.messages, default=0) + 1 if tree else 1
            keeper = Kept(
                self.store, session, self._described, first_id=first, failed=self._not_kept
            )
        return Conversation(keeper, tree)

    async def open_session(self, id: int) -> None:
        """Shows a session of the store, with the settings that it was kept with.

        Raises: SessionError: it is not there.
        """
        if self.store is None:
            return
        session, tree = await self.store.ask(lambda store: (store.session(id), store.tree(id)))
        self.chat.settings = self._settings_of(session)
        await self.chat.show_conversation(self.conversation(id, tree))
        if session.model and session.model != self.chat.model:
            line = f"this conversation was with {session.model}; /model {session.model} loads it"
            await self.chat.say("notice", line)

    def get_driver_class(self) -> type[Driver]:
        chosen = super().get_driver_class()
        return TerminalDriver if chosen is LinuxDriver else chosen

    def on_mount(self) -> None:
        self._bridge.open()
        self.engine.start(self._bridge)
        self.push_screen(self.chat)
        self.call_later(self.load, self._model)

    async def on_unmount(self) -> None:
        self._bridge.close()
        self.engine.stop()
        self.chat.conversation.end(None, "stopped", "")
        if self.store is not None:
            await asyncio.to_thread(self.store.close)
        await asyncio.to_thread(self.engine.close)

    def load(self, model: str) -> None:
        """Loads a model in place of the one that is there."""
        self.chat.load(Load(model=model, context=self._cache_tokens), model)

    def action_turn_theme(self) -> None:
        """From dark to light and back."""
        self.theme = LIGHT if self.current_theme.dark else DARK

    def action_keys(self) -> None:
        """Shows or hides the keys of what has the focus."""
        if self.screen.query("HelpPanel"):
            self.action_hide_help_panel()
        else:
            self.action_show_help_panel()

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        chat = self.chat
        yield SystemCommand("Stop", "Stop the reply that is being made", chat.action_stop)
        yield SystemCommand("Again", "Make the last reply anew", chat.action_again)
        yield SystemCommand("Messages", "Choose, copy, edit messages", chat.action_messages)
        yield SystemCommand("Newest", "Go to the end of the conversation", chat.action_newest)
        yield SystemCommand("Unqueue", "Remove the last queued message", chat.action_unqueue)
        yield SystemCommand("Light or dark", "Turn the theme", self.action_turn_theme)

    async def on_engine_told(self, event: EngineTold) -> None:
        await self.chat.hear(event.events)
        self.told.publish(event.events)
        if any(isinstance(each, Loaded) for each in event.events):
            self.keep_settings()

    async def on_chat_screen_asked(self, event: ChatScreen.Asked) -> None:
        """The commands that need no other screen."""
        command, chat = event.command, self.chat
        if (changed := after(chat.settings, command)) is not None:
            chat.settings = changed
            self.keep_settings()
            await chat.say("notice", changed_line(command))
            return
        match command.name:
            case "retry":
                await chat.action_again()
            case "branch":
                await chat.go_to_branch(command.value)
            case "edit":
                chat.edit_message(command.value)
            case "clear":
                await chat.show_conversation(self.conversation())
            case "save":
                self.run_worker(self._save(str(command.value or "")))
            case "help":
                name = str(command.value or "")
                keys = [] if name else ["", *self._key_lines()]
                await chat.say("notice", "\n".join([*help_lines(name), *keys]))
            case "model" if command.value is not None:
                self.load(str(command.value))
            case "quit":
                self.exit()
            case _:
                await self.carry_out(command)

    async def carry_out(self, command: Command) -> None:
        """A command that opens another screen."""
        await self.chat.say("error", f"/{command.name} cannot be used here yet; try the palette")

    def copy_to_clipboard(self, text: str) -> None:
        super().copy_to_clipboard(text)
        copy_on_mac(text)

    def open_url(self, url: str, *, new_tab: bool = True) -> None:
        """Nothing that a model wrote is opened."""

    def _key_lines(self) -> list[str]:
        """The keys that work wherever the focus is."""
        return [
            f"{self.get_key_display(binding):<10}  {binding.description}"
            for map in (self._bindings, self.chat._bindings)
            for _, binding in map
            if binding.description
        ]

    def _deliver(self, events: Batch) -> None:
        self.post_message(EngineTold(events))

    def _described(self) -> tuple[str, dict[str, str | int | float | bool | None]]:
        return self.chat.model, to_keep(self.chat.settings)

    def keep_settings(self) -> None:
        """The session goes on with the settings and the model that there are now."""
        keeper = self.chat.conversation.keeper
        if isinstance(keeper, Kept):
            keeper.configure()

    async def ask_session(self, act: Callable[[Store, int], Result]) -> Result | None:
        """What an act returns of the session as it is on disk; None: there is none.

        Raises: what the act raises.
        """
        keeper = self.chat.conversation.keeper
        return await keeper.ask(act) if isinstance(keeper, Kept) else None

    async def _save(self, title: str) -> None:
        def save(store: Store, id: int) -> str:
            return f"saved as {store.rename(id, title).title}" if title else "saved"

        try:
            line = await self.ask_session(save)
        except SessionError as error:
            await self.chat.say("error", str(error))
        else:
            if line is None:
                await self.chat.say("error", "there is nothing to save; write a message first")
            else:
                await self.chat.say("notice", line)

    def _settings_of(self, session: Session) -> Settings:
        return kept(preferred(self.preferences), session.settings)

    def _not_kept(self, line: str) -> None:
        """From the store's thread."""
        with contextlib.suppress(RuntimeError):
            self.call_later(self.chat.say, "error", line)
