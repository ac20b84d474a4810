"""What Tab writes, and the list that shows it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from chatting import Window, window

from mlx_mistral.tui.chat import completion
from mlx_mistral.tui.chat.candidates import Candidates, Choice, rows
from mlx_mistral.tui.commands.attach import list_folder
from mlx_mistral.tui.commands.complete import Candidate


def offered(w: Window) -> bool:
    return bool(w.chat.query_one(Candidates).display)


async def test_a_command_is_taken_by_tab_and_what_follows_it_is_offered_next() -> None:
    async with window() as w:
        w.chat.completion.model_names = lambda: ["mistral-7b", "8x\x1b[2J", "mixtral-8x7b"]
        await w.press(*"/mod")
        await w.until(lambda: offered(w))
        assert "› /model" in w.text
        await w.press("tab")
        assert w.composer.text == "/model "
        await w.press(*"8X", "tab")
        assert w.composer.text == "/model mixtral-8x7b"
        assert not offered(w)
        assert w.app.focused is w.composer


async def test_arrows_move_the_mark_around_the_list_of_at_most_six() -> None:
    async with window() as w:
        await w.press("/")
        await w.until(lambda: offered(w))
        assert w.chat.query_one(Candidates).size.height == 6
        await w.press("up", "up")
        assert "› /help" in w.text
        await w.press("down", "down", "down", "tab")
        assert w.composer.text == "/system "


async def test_a_path_is_taken_folder_by_folder_in_the_middle_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / "notes.txt").write_text("x")
    (tmp_path / "a folder" / "bad\x1b[2Jname").write_text("x")
    async with window() as w:
        w.chat.completion.folder = tmp_path
        await w.press(*"one", "ctrl+j", *"see  now", *["left"] * 4, *"@a", "tab")
        assert w.composer.text == 'one\nsee @"a folder/ now'
        await w.press("tab")
        assert w.composer.text == 'one\nsee @"a folder/notes.txt" now'


async def test_tab_before_a_slow_folder_is_listed_completes_once_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.txt").write_text("x")
    may = threading.Event()
    listed: list[str] = []

    def slowly(parent: str, folder: Path) -> completion.Listing:
        assert may.wait(30)
        listed.append(parent)
        return list_folder(parent, folder)

    monkeypatch.setattr(completion, "list_folder", slowly)
    async with window() as w:
        w.chat.completion.folder = tmp_path
        await w.press(*"see @no", "tab")
        assert w.app.focused is w.composer
        assert w.composer.text == "see @no"
        await w.press("t")
        await w.press("tab")
        may.set()
        await w.until(lambda: w.composer.text == "see @notes.txt")
        assert listed == [""], "one look at the folder is enough for all that is typed"


async def test_escape_hides_the_list_and_only_then_stops() -> None:
    async with window() as w:
        await w.send("hello")
        await w.until(lambda: w.engine.replies)
        await w.press(*"/st")
        await w.until(lambda: offered(w))
        await w.press("escape")
        assert not offered(w)
        assert not w.engine.stops
        await w.press("escape")
        assert w.engine.stops == [w.engine.replies[0].id]
        await w.press("a")
        assert offered(w)


async def test_without_a_list_tab_and_arrows_mean_what_they_mean() -> None:
    async with window() as w:
        await w.answer("one", "1")
        await w.send("/help mod")
        await w.press("up")
        assert w.composer.text == "/help mod"
        await w.press("up")
        assert w.composer.text == "one"
        await w.press("tab")
        assert w.app.focused is w.transcript


def test_rows_scroll_with_the_mark_and_spell_out_what_would_act() -> None:
    choice = Choice()
    names = [f"model-{n}" for n in range(8)] + ["\x1b[31m"]
    choice.offer([Candidate(text=name, begin=0, end=0, note="x" * 90) for name in names])
    choice.move(-1)
    shown = rows(choice, 40)
    assert len(shown) == 6
    assert shown[-1].startswith("› \\x1b[31m")
    assert all(len(row) <= 40 for row in shown)
