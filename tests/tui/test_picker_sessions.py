"""The list of conversations, on a real store: find, open, rename, delete and undo, export."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions.plain_text import Snippet
from mlx_mistral.sessions.store import Store
from mlx_mistral.tui.pickers.session_rows import Row, age, listed, row_content
from mlx_mistral.tui.pickers.sessions import Opened, SessionPicker
from mlx_mistral.tui.store_thread import StoreThread

NOW = 1_000_000.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Three conversations, each an hour after the one before."""
    time = [NOW - 3 * 3600]
    with Store(tmp_path / "sessions.sqlite", clock=lambda: time[0]) as store:
        for text in ("About bread and [red]butter[/]", "About rivers", "About bridges"):
            session = store.create(model="org/mistral-7b")
            question = store.add(session.id, None, "user", text)
            store.add(session.id, question.id, "assistant", f"{text}: flour, water, \x1b[2Jsalt.")
            time[0] += 3600
        yield store


class Screen(App[None]):
    def __init__(self, store: Store, query: str = "") -> None:
        super().__init__()
        self._store = store
        self._query = query
        self.opened: list[Opened | None] = []
        self.exported: list[int] = []

    def on_mount(self) -> None:
        picker = SessionPicker(StoreThread(self._store), query=self._query, clock=lambda: NOW)
        self.push_screen(picker, self.opened.append)

    def on_session_picker_export_asked(self, event: SessionPicker.ExportAsked) -> None:
        self.exported.append(event.session)
        event.picker.note("written to [b]here[/b].md")

    @property
    def note(self) -> str:
        return str(self.screen.query_one("#picker-note", Static).render())

    def titles(self) -> list[str]:
        options = self.screen.query_one(OptionList)
        return [str(options.get_option_at_index(i).prompt) for i in range(options.option_count)]


async def settled(pilot: Pilot[None]) -> None:
    await pilot.pause()
    await pilot.pause()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (90_000, "1 d"),
     (40 * 86400, "1 mo"), (800 * 86400, "2 y")],
)  # fmt: skip
def test_an_age_is_told_in_one_unit(seconds: float, text: str) -> None:
    assert age(seconds) == text


def test_rows_are_the_newest_first_and_hits_follow_titles(store: Store) -> None:
    assert [row.title for row in listed(store, "", NOW)] == [
        "About bridges", "About rivers", "About bread and [red]butter[/]",
    ]  # fmt: skip
    rows = listed(store, "bri", NOW)
    assert rows[0].message is None
    assert {row.title for row in rows} == {"About bridges"}
    assert len(rows) == 3
    assert listed(store, "", NOW)[0].note == "mistral-7b · 2 messages · 1 h"


@pytest.mark.parametrize("width", [1, 5, 20, 72])
def test_a_row_fits_and_marks_hits_where_they_are(width: int) -> None:
    row = Row(session=1, title="A [b]title[/b]\x1b[2J of some length", note="user · 1 h",
              snippet=Snippet(text="…so [i]flour[/i] and 界界 water", hits=((7, 12),)))  # fmt: skip
    content = row_content(row, width)
    lines = content.plain.split("\n")
    assert len(lines) == 2
    assert all(cell_len(line) <= width for line in lines)
    if width == 72:
        assert "[i]flour[/i]" in lines[1]
        (span,) = [span for span in content.spans if "reverse" in str(span.style)]
        assert content.plain[span.start : span.end] == "flour"


@pytest.mark.parametrize(("size", "no_color"), [((80, 24), True), ((140, 45), False)])
async def test_typing_searches_and_enter_opens_the_message(
    store: Store, size: tuple[int, int], no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    app = Screen(store)
    async with app.run_test(size=size) as pilot:
        await settled(pilot)
        assert len(app.titles()) == 3
        assert app.titles()[2].startswith("About bread and [red]butter[/]")
        await pilot.press(*"flo")
        await settled(pilot)
        await pilot.press("down", "down")
        await settled(pilot)
        assert len(app.titles()) == 3
        assert "\x1b" not in "".join(app.titles())
        strips = app.screen._compositor.render_strips()
        styled = [(one.text, one.style) for strip in strips for one in strip if one.style]
        marked = {text for text, style in styled if style.reverse and style.underline}
        assert marked == {"flo"}
        await pilot.press("enter")
        await settled(pilot)
        hit = store.search("flo")[1]
        assert app.opened == [Opened(session=hit.session, message=hit.message)]


async def test_enter_opens_the_newest_and_escape_nothing(store: Store) -> None:
    for key, opened in (("enter", Opened(session=store.sessions()[0].id)), ("escape", None)):
        app = Screen(store)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            await pilot.press(key)
            await settled(pilot)
            assert app.opened == [opened]


async def test_a_new_title_is_kept_and_escape_leaves_the_old_one(store: Store) -> None:
    app = Screen(store)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("down", "r", "end", "]", "escape")
        await settled(pilot)
        assert store.sessions()[0].title == "About bridges"
        await pilot.press("r", "end", "]", "enter")
        await settled(pilot)
        assert store.sessions()[0].title == "About bridges]"
        assert app.titles()[0].startswith("About bridges]")
        assert app.opened == []


async def test_what_was_deleted_comes_back_in_reverse_order(store: Store) -> None:
    app = Screen(store)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("down", "u")
        assert "nothing was deleted" in app.note
        await pilot.press("d", "d")
        await settled(pilot)
        assert [session.title for session in store.sessions()] == ["About bread and [red]butter[/]"]
        assert "u brings it back: About rivers" in app.note
        await pilot.press("u")
        await settled(pilot)
        assert store.sessions()[0].title == "About rivers"
        await pilot.press("u")
        await settled(pilot)
        assert len(app.titles()) == 3


async def test_keys_do_nothing_in_an_empty_list(tmp_path: Path) -> None:
    with Store(tmp_path / "empty.sqlite") as store:
        app = Screen(store)
        async with app.run_test(size=(80, 24)) as pilot:
            await settled(pilot)
            app.screen.query_one(OptionList).focus()
            await pilot.press("d", "r", "e", "enter")
            assert (app.exported, app.opened) == ([], [])


async def test_an_export_is_asked_for_and_its_answer_shown(store: Store) -> None:
    app = Screen(store, query="bread")
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        await pilot.press("down", "e")
        await settled(pilot)
        assert app.exported == [listed(store, "bread", NOW)[0].session]
        assert app.note == "written to [b]here[/b].md"


async def test_what_ends_after_the_list_was_left_is_told_to_nobody(store: Store) -> None:
    app = Screen(store)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        picker = app.screen
        assert isinstance(picker, SessionPicker)
        await pilot.press("escape")
        await settled(pilot)
        assert app.screen is not picker
        picker.note("written")


async def test_a_store_that_fails_is_told_in_one_line(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise SessionError("the file is\nlocked; close the other window")

    app = Screen(store)
    async with app.run_test(size=(80, 24)) as pilot:
        await settled(pilot)
        monkeypatch.setattr(store, "delete", fail)
        await pilot.press("down", "d")
        assert app.note == "the file is locked; close the other window"
        assert len(app.titles()) == 3
        monkeypatch.setattr(store, "search", fail)
        await pilot.press("up", "x")
        await settled(pilot)
        assert app.note.startswith("the file is locked")
