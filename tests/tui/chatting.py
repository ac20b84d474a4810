"""A chat window with a scripted engine, and a way to wait for what it shows."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from scripted import ScriptedEngine, loaded, told
from textual.pilot import Pilot
from textual.widget import Widget

from mlx_mistral.live.commands import Load
from mlx_mistral.sessions.tree import Message, Tree
from mlx_mistral.tui.app import ChatApp
from mlx_mistral.tui.chat.conversation import Conversation
from mlx_mistral.tui.chat.keeper import Unkept
from mlx_mistral.tui.chat.message import MessageView

SMALL, LARGE = (80, 24), (140, 45)
LONGEST_WAIT_SECONDS = 60.0


class Window:
    """An open window."""

    def __init__(self, app: ChatApp, engine: ScriptedEngine, pilot: Pilot[None]) -> None:
        self.app = app
        self.engine = engine
        self.pilot = pilot
        self.chat = app.chat
        self.composer = app.chat.composer
        self.transcript = app.chat.transcript

    async def until(self, condition: Callable[[], object]) -> None:
        """Lets the window work until a condition holds."""
        end = time.monotonic() + LONGEST_WAIT_SECONDS
        while time.monotonic() < end:
            await self.pilot.pause()
            if condition():
                await self.pilot.pause()
                return
        raise AssertionError(f"never came true; the window shows\n{self.text}")

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def send(self, text: str) -> None:
        """Writes a message and sends it."""
        self.composer.write(text)
        await self.press("enter")

    async def answer(self, text: str, *answers: str) -> None:
        """Sends a message and has the engine reply."""
        n = len(self.engine.replies)
        await self.send(text)
        await self.until(lambda: len(self.engine.replies) > n)
        self.engine.tell(*told(self.engine.replies[-1].id, *answers))
        await self.until(lambda: self.chat.conversation.running is None)

    @property
    def text(self) -> str:
        """The letters on the screen."""
        return shown(self.app.screen)

    @property
    def headers(self) -> list[str]:
        return [entry.header for entry in self.transcript.entries]

    def said(self) -> list[tuple[str, str]]:
        return [(entry.role, entry.text) for entry in self.transcript.entries]


def shown(widget: Widget) -> str:
    """What a widget shows, in lines."""
    width, height = widget.size
    strips = widget.screen._compositor.render_strips(widget.app.size)
    region = widget.region
    lines = ["".join(segment.text for segment in strip) for strip in strips]
    return "\n".join(
        line[region.x : region.x + width] for line in lines[region.y : region.y + height]
    )


@asynccontextmanager
async def window(
    engine: ScriptedEngine | None = None,
    *,
    size: tuple[int, int] = SMALL,
    load: bool = True,
    messages: Sequence[tuple[str, str]] = (),
    app: ChatApp | None = None,
) -> AsyncIterator[Window]:
    """A window of a loaded model, unless told otherwise; `messages` were said before."""
    engine = engine or ScriptedEngine()
    app = app or ChatApp(engine)
    if messages:
        app.chat.conversation = conversation(messages)
    async with app.run_test(size=size) as pilot:
        opened = Window(app, engine, pilot)
        await opened.until(lambda: app.screen is app.chat and engine.loads)
        if load and engine.script is None:
            command = engine.commands[0]
            assert isinstance(command, Load)
            engine.tell(loaded(command.model))
        if load:
            await opened.until(lambda: app.chat.is_loaded)
        yield opened


def conversation(messages: Sequence[tuple[str, str]]) -> Conversation:
    """One without branches, in memory."""
    made = [
        Message(
            id=index + 1, parent=index or None, role=role, content=content, created=float(index)
        )
        for index, (role, content) in enumerate(messages)
    ]
    return Conversation(Unkept(len(made) + 1), Tree.of(made))


def long_talk(n: int, letters: int = 1000) -> list[tuple[str, str]]:
    """`n` messages of so many letters."""
    words = "The sea is wide and the ships are many. "
    text = (words * (letters // len(words) + 1))[:letters]
    return [("assistant" if i % 2 else "user", f"{i}: {text}") for i in range(n)]


def views(opened: Window) -> list[MessageView]:
    return list(opened.app.chat.query(MessageView))
