"""Draws docs/window.svg and docs/tokens.svg: the window with the bundled model at work.

python docs/screenshots.py
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from mlx_mistral.cli.known_models import KnownModels
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.tui.window import ChatWindow

SIZE = (110, 32)
DOCS = Path(__file__).parent
QUESTIONS = ("What is a sliding window?", "My favourite colour is green.", "Et en français ?")


async def main() -> None:
    """Talks as a person would, and draws what there is to see."""
    window = ChatWindow(LiveEngine())
    window.models = KnownModels()
    async with window.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: window.screen is window.chat and window.chat.is_loaded)
        await pilot.press("f9", "f3")
        for number, question in enumerate(QUESTIONS, start=1):
            window.chat.composer.write(question)
            await pilot.press("enter")
            await until(pilot, lambda done=2 * number: has_ended(window, done))
        window.clear_notifications()
        await pilot.pause(1)
        save(window, "window.svg")
        await pilot.press("f9")
        await pilot.pause(1)
        await pilot.press("right", "right")
        await pilot.pause(1)
        save(window, "tokens.svg")


def has_ended(window: ChatWindow, n_messages: int) -> bool:
    """Whether so many messages stand there, the last of them whole."""
    conversation = window.chat.conversation
    return conversation.running is None and len(conversation.tree) == n_messages


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    while not condition():
        await pilot.pause(0.02)


def save(window: ChatWindow, name: str) -> None:
    """Without the web fonts that Textual's drawings refer to."""
    drawing = window.export_screenshot(title="mlx-mistral chat")
    drawing = re.sub(r"@font-face\s*\{.*?\}", "", drawing, flags=re.DOTALL)
    (DOCS / name).write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(main())
