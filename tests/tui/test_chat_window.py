"""Keys, themes, commands, what is kept on disk, what is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from chatting import LARGE, SMALL, window
from scripted import ScriptedEngine, echo, pieces, says, told

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions.preferences import Preferences
from mlx_mistral.sessions.store import Store
from mlx_mistral.tui.app import ChatApp


async def test_keys_stand_in_the_footer_and_f1_shows_the_rest() -> None:
    async with window(size=LARGE) as w:
        assert "Send" in w.text
        assert "adds a line" in w.text
        await w.press("f1")
        await w.until(lambda: w.app.screen.query("HelpPanel"))
        await w.press("f1")
        await w.until(lambda: not w.app.screen.query("HelpPanel"))


async def test_the_palette_has_the_actions_of_the_chat() -> None:
    async with window() as w:
        names = {command.title for command in w.app.get_system_commands(w.app.chat)}
        assert {"Stop", "Again", "Messages", "Newest", "Quit", "Theme"} <= names
        await w.press("ctrl+p")
        await w.until(lambda: w.app.screen is not w.app.chat)
        await w.press("escape")
        await w.until(lambda: w.app.screen is w.app.chat)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_both_themes_show_the_same_words(size: tuple[int, int]) -> None:
    async with window(ScriptedEngine(says(echo)), size=size) as w:
        await w.send("hello **there**\n\n```python\nx\n```")
        await w.until(lambda: "you said hello" in w.text)
        dark = w.text
        await w.press("f2")
        await w.until(lambda: not w.app.current_theme.dark)
        assert w.text == dark


async def test_without_colour_the_words_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with window(ScriptedEngine(says(echo))) as w:
        await w.send("hello")
        await w.until(lambda: "you said hello" in w.text)
        assert "You" in w.text
        assert "Model" in w.text


async def test_a_smaller_terminal_still_has_a_composer() -> None:
    async with window() as w:
        await w.pilot.resize_terminal(30, 10)
        await w.press("a")
        assert w.composer.text == "a"


def reopened(path: Path) -> tuple[ChatApp, ScriptedEngine]:
    store = Store(path)
    last = store.last()
    assert last is not None
    engine = ScriptedEngine()
    return ChatApp(engine, store, session=last.id), engine


async def test_a_conversation_is_kept_and_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    engine = ScriptedEngine()
    app = ChatApp(engine, Store(path), Preferences(temperature=0.5, theme="textual-light"))
    async with window(engine, app=app) as w:
        assert not w.app.current_theme.dark
        await w.answer("one", "first")
        await w.press("ctrl+r")
        await w.until(lambda: len(engine.replies) == 2)
        engine.tell(*told(engine.replies[1].id, "second"))
        await w.until(lambda: "Model · 2 of 2" in w.text)
        assert engine.replies[0].settings.temperature == 0.5
    app, engine = reopened(path)
    async with window(engine, app=app) as w:
        await w.until(lambda: "second" in w.text and "Model · 2 of 2" in w.text)
        await w.answer("two", "third")
        assert [m.content for m in engine.replies[0].messages] == ["one", "second", "two"]
        assert engine.replies[0].settings.temperature == 0.5


async def test_what_was_said_is_on_disk_before_the_reply_is_over(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    engine = ScriptedEngine()
    app = ChatApp(engine, Store(path))
    async with window(engine, app=app) as w:
        await w.send("one")
        await w.until(lambda: engine.replies)
        engine.tell(*pieces(engine.replies[0].id, ["half an", " answer"]))
        await w.until(lambda: "half an answer" in w.text)
        w.chat.conversation.save()
        assert app.store is not None
        await app.store.ask(lambda store: None)  # its turn comes after all that was written
        with Store(path) as other:
            last = other.last()
            assert last is not None
            message = other.tree(last.id).path()[-1]
        assert (message.content, message.complete) == ("half an answer", False)


class Full(Store):
    """A disk that takes nothing."""

    def add(self, *values: object, **named: object) -> None:  # type: ignore[override]
        raise SessionError("the disk is full; make room")


async def test_a_disk_that_refuses_is_an_error_line_and_the_chat_goes_on(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatApp(engine, Full(tmp_path / "sessions.db"))) as w:
        await w.answer("one", "first")
        await w.until(lambda: "the disk is full" in w.text and "not saved" in w.text)
        await w.answer("two", "second")
        assert [m.content for m in engine.replies[1].messages] == ["one", "first", "two"]


def test_the_window_runs_without_a_model_library() -> None:
    script = f"""
import asyncio, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
from chatting import window
from scripted import ScriptedEngine, echo, says

async def main():
    async with window(ScriptedEngine(says(echo))) as w:
        await w.send("hello")
        await w.until(lambda: "you said hello" in w.text)

asyncio.run(main())
heavy = ("mlx", "transformers", "mistral_common", "tokenizers", "huggingface_hub")
sys.exit(", ".join(name for name in heavy if name in sys.modules) or 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


async def test_slash_commands_change_settings_branches_and_conversations(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    store = Store(tmp_path / "sessions.db")
    async with window(engine, app=ChatApp(engine, store)) as w:
        await w.send("/temp 0.7")
        await w.until(lambda: "temperature: 0.7" in w.text)
        await w.answer("one", "first")
        assert engine.replies[0].settings.temperature == 0.7
        await w.send("/retry")
        await w.until(lambda: len(engine.replies) == 2)
        engine.tell(*told(engine.replies[1].id, "second"))
        await w.until(lambda: "Model · 2 of 2" in w.text)
        await w.send("/branch")
        await w.until(lambda: "Model · 1 of 2" in w.text)
        await w.send("/edit")
        await w.until(lambda: w.composer.text == "one")
        await w.press("escape")
        await w.send("/save The title")
        await w.until(lambda: "saved as The title" in w.text)
        await w.send("/clear")
        await w.until(lambda: not w.said())
        assert [session.title for session in store.sessions()] == ["The title"]


async def test_a_command_that_is_none_stays_in_the_composer() -> None:
    async with window() as w:
        await w.send("/tmep 1")
        await w.until(lambda: "there is no command /tmep" in w.text)
        assert w.composer.text == "/tmep 1"
        await w.send("//usr/bin")
        await w.until(lambda: w.engine.replies)
        assert w.engine.replies[0].messages[-1].content == "/usr/bin"
