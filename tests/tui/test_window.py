"""The whole window: panels, lists and forms over the chat."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from chatting import LARGE, SMALL, window
from scripted import ScriptedEngine, finished, loaded, progress, told

from mlx_mistral.live.commands import Load, Watch
from mlx_mistral.live.events import Alternative, Piece
from mlx_mistral.sessions.preferences import (
    Preferences,
    default_path,
    load_preferences,
    save_preferences,
)
from mlx_mistral.sessions.store import Store
from mlx_mistral.tui.panels.machine import MachinePanel
from mlx_mistral.tui.pickers.model_rows import ModelRow, Report
from mlx_mistral.tui.pickers.models import ModelPicker
from mlx_mistral.tui.pickers.sessions import SessionPicker
from mlx_mistral.tui.settings import SettingsForm
from mlx_mistral.tui.window import ChatWindow, TokenScreen


class TwoModels:
    """A provider of a model that is here and one that is not."""

    def rows(self) -> Sequence[ModelRow]:
        return [ModelRow(name="demo", is_cached=True), ModelRow(name="other", is_cached=True)]

    def pull(self, name: str, report: Report) -> None:
        report(1, 1)


def watched(id: int, token: int, text: str) -> Piece:
    other = Alternative(token=token + 100, text="else", probability=0.25)
    own = Alternative(token=token, text=text, probability=0.75)
    return Piece(id=id, token=token, text=text, probability=0.75, alternatives=(own, other))


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_figures_of_a_reply_stand_in_the_status_line(size: tuple[int, int]) -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine), size=size) as opened:
        await opened.answer("Hello", "Hi")
        engine.tell(progress(engine.replies[-1].id, decode_tps=123.0))
        await opened.until(lambda: "123" in opened.text)
        assert "120" not in opened.text.splitlines()[-2], "the newest figures count"


async def test_the_machine_is_shown_and_hidden_and_watched_meanwhile() -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine), size=LARGE, load=False) as opened:
        engine.tell(loaded("demo", n_experts=8, experts_per_token=2))
        await opened.until(lambda: opened.chat.is_loaded)
        await opened.press("f3")
        await opened.until(lambda: engine.watches)
        assert opened.chat.query_one(MachinePanel).display
        assert engine.watches[-1].experts
        await opened.press("f3")
        await opened.until(lambda: engine.watches[-1] == Watch())
        assert not opened.chat.query_one(MachinePanel).display


async def test_experts_are_watched_once_a_model_has_some() -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine), load=False) as opened:
        await opened.press("f3")
        await opened.until(lambda: engine.watches)
        for n_experts in (0, 8, 0):
            engine.tell(loaded("demo", n_experts=n_experts))
            await opened.until(lambda n=n_experts: engine.watches[-1].experts == bool(n))


async def test_the_machine_shows_what_happened_while_it_was_hidden() -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine), size=LARGE) as opened:
        panel = opened.chat.query_one(MachinePanel)
        for n_tokens in (35, 47):
            await opened.press("f3")
            await opened.until(lambda n=n_tokens: panel.display is (n == 35))
            await opened.send("Hello")
            await opened.until(lambda: opened.chat.conversation.running is not None)
            engine.tell(*told(engine.replies[-1].id, "Good", cache_tokens=n_tokens))
            await opened.until(lambda: opened.chat.conversation.running is None)
        await opened.press("f3")
        await opened.until(lambda: panel.display and ", 47 tokens" in opened.text)


async def test_a_model_is_chosen_from_the_list_and_loaded() -> None:
    engine = ScriptedEngine()
    app = ChatWindow(engine)
    app.models = TwoModels()
    async with window(engine, app=app) as opened:
        await opened.send("/model")
        await opened.until(lambda: isinstance(app.screen, ModelPicker))
        await opened.until(lambda: "other" in opened.text)
        await opened.press("down", "down", "enter")
        await opened.until(lambda: len(engine.loads) == 2)
        assert engine.loads[-1] == Load(model="other")


async def test_names_of_models_are_completed() -> None:
    engine = ScriptedEngine()
    app = ChatWindow(engine)
    app.models = TwoModels()
    async with window(engine, app=app) as opened:
        await opened.until(lambda: opened.chat.completion.model_names() == ["demo", "other"])


async def test_the_form_changes_how_replies_are_made() -> None:
    engine = ScriptedEngine()
    app = ChatWindow(engine, preferences=Preferences(temperature=0.5))
    async with window(engine, app=app) as opened:
        await opened.press("f4")
        await opened.until(lambda: isinstance(app.screen, SettingsForm))
        await opened.press("home", *["delete"] * 4, "0", "ctrl+s")
        await opened.until(lambda: app.screen is app.chat)
        assert app.chat.settings.temperature == 0


async def test_a_conversation_is_found_by_its_words_and_opened(tmp_path: Path) -> None:
    engine = ScriptedEngine()
    with Store(tmp_path / "kept.sqlite3") as store:
        app = ChatWindow(engine, store)
        async with window(engine, app=app) as opened:
            await opened.answer("The zebra is striped", "So it is")
            await opened.send("/clear")
            await opened.until(lambda: not opened.transcript.entries)
            await opened.send("/search zebra")
            await opened.until(lambda: isinstance(app.screen, SessionPicker))
            await opened.until(lambda: "zebra" in opened.text)
            await opened.press("enter")
            await opened.until(lambda: app.screen is app.chat)
            await opened.until(lambda: opened.transcript.entries)
            assert ("user", "The zebra is striped") in opened.said()


@pytest.mark.parametrize("ending", [".md", ".json"])
async def test_a_conversation_is_written_to_a_file_once(tmp_path: Path, ending: str) -> None:
    engine, target = ScriptedEngine(), tmp_path / f"talk{ending}"
    with Store(tmp_path / "kept.sqlite3") as store:
        async with window(engine, app=ChatWindow(engine, store)) as opened:
            await opened.answer("Hello", "Hi there")
            await opened.send(f"/export {target}")
            await opened.until(target.is_file)
            text = target.read_text(encoding="utf-8")
            assert "Hi there" in text
            if ending == ".json":
                assert json.loads(text)
            await opened.send(f"/export {target}")
            await opened.until(lambda: opened.said()[-1][0] == "error")
            assert target.read_text(encoding="utf-8") == text


async def test_an_exported_conversation_is_imported_and_opened(tmp_path: Path) -> None:
    engine, file = ScriptedEngine(), tmp_path / "a talk.json"
    with Store(tmp_path / "kept.sqlite3") as store:
        async with window(engine, app=ChatWindow(engine, store)) as opened:
            opened.chat.completion.folder = tmp_path
            await opened.answer("Hello", "Hi there")
            await opened.send(f"/export {file}")
            await opened.until(file.is_file)
            await opened.send("/clear")
            await opened.until(lambda: not opened.transcript.entries)
            await opened.press("ctrl+o")
            await opened.until(lambda: isinstance(opened.app.screen, SessionPicker))
            await opened.until(lambda: "Hello" in opened.text)
            await opened.press("down", "i")
            await opened.until(lambda: opened.composer.text == "/import ")
            await opened.press("a", "tab")
            await opened.until(lambda: opened.composer.text == "/import a talk.json")
            opened.composer.write(f"/import {file}")
            await opened.press("enter")
            await opened.until(lambda: "imported: Hello, 2 messages" in opened.text)
            assert opened.said()[:2] == [("user", "Hello"), ("assistant", "Hi there")]
            await opened.send("/import nothing.json")
            await opened.until(lambda: opened.said()[-1][0] == "error")
        assert [each.n_messages for each in store.sessions()] == [2, 2]


async def test_settings_become_defaults_and_leave_the_others_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path))
    save_preferences(default_path(), Preferences(model="org/mine", temperature=0.5))
    engine = ScriptedEngine()
    app = ChatWindow(engine, preferences=load_preferences(default_path()))
    async with window(engine, app=app) as opened:
        await opened.press("f4")
        await opened.until(lambda: isinstance(app.screen, SettingsForm))
        await opened.press("home", *["delete"] * 4, "0", ".", "2", "f6", "f6")
        await opened.until(lambda: "written to" in opened.text)
        assert app.chat.settings.temperature == 0.2
    assert load_preferences(default_path()) == Preferences(
        model="org/mine", system="", temperature=0.2, top_p=1.0, max_tokens=1024,
        theme="textual-dark",
    )  # fmt: skip


async def test_defaults_that_cannot_be_read_are_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path))
    default_path().write_text("temperature = # mine")
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine)) as opened:
        await opened.press("f4", "f6", "f6")
        await opened.until(lambda: opened.said()[-1:] and "is no TOML" in opened.said()[-1][1])
    assert default_path().read_text() == "temperature = # mine"


async def test_bits_of_the_cache_are_a_setting_of_replies() -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine)) as opened:
        for said, bits in (("8", 8), ("16", None)):
            await opened.send(f"/cache-bits {said}")
            await opened.until(lambda said=said: f"cache bits: {said}" in opened.text)
            assert opened.chat.settings.cache_bits == bits
        await opened.send("/cache-bits 5")
        await opened.until(lambda: "takes a whole number, 16 or 8 or 4" in opened.text)


@pytest.mark.parametrize(("focus", "last"), [("composer", "f3 Machine"), ("transcript", "r Again")])
async def test_every_key_of_the_footer_is_in_sight_in_80_columns(focus: str, last: str) -> None:
    engine = ScriptedEngine()
    async with window(engine, app=ChatWindow(engine), size=SMALL) as opened:
        getattr(opened, focus).focus()
        await opened.until(lambda: last in opened.text.splitlines()[-1])
        if focus == "composer":
            assert "^q Quit" in opened.text
            await opened.press("f3")
            await opened.until(lambda: opened.chat.query_one(MachinePanel).display)
            assert last in opened.text.splitlines()[-1], "the panel leaves the footer whole"


async def test_a_reply_goes_on_from_another_token() -> None:
    engine = ScriptedEngine()
    app = ChatWindow(engine)
    async with window(engine, app=app) as opened:
        await opened.press("f9")
        await opened.until(lambda: engine.watches and engine.watches[-1].probabilities)
        await opened.send("Hello")
        await opened.until(lambda: engine.replies)
        id = engine.replies[-1].id
        engine.tell(watched(id, 5, "Good"), watched(id, 6, " day"), finished(id))
        await opened.until(lambda: opened.chat.conversation.running is None)
        await opened.press("f9")
        await opened.until(lambda: isinstance(app.screen, TokenScreen))
        await opened.press("right", "enter", "down", "enter")
        await opened.until(lambda: len(engine.replies) == 2)
        assert engine.replies[-1].begun == (5, 106)
        assert engine.replies[-1].messages == engine.replies[0].messages
