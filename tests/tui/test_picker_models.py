"""The list of models: filter, choose, pull, and what went wrong in one line."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from panel_waiting import until
from rich.cells import cell_len
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from mlx_mistral.errors import ModelNotFoundError
from mlx_mistral.tui.pickers.model_rows import ModelRow, Pace, Report, matching, row_text
from mlx_mistral.tui.pickers.models import ModelPicker

ROWS = [
    ModelRow(name="demo", is_cached=True, size_bytes=4_200_000, bits=16.0, fits=True,
             decode_tps=812.0),
    ModelRow(name="mistralai/Mistral-7B-[bold]v0.3", is_cached=True, size_bytes=4_080_000_000,
             bits=4.5, fits=True, decode_tps=41.7),
    ModelRow(name="mixtral-8x22b", is_cached=False, size_bytes=80_000_000_000, fits=False,
             detail="needs [b]90 GB[/b]\nof 16 GB"),
    ModelRow(name="codestral-22b", is_cached=False),
]  # fmt: skip


class Provider:
    """Tells rows at once; a pull takes the steps that a test allows."""

    def __init__(self, rows: Sequence[ModelRow] = ROWS) -> None:
        self.listed = rows
        self.error = ""
        self.pulled: list[str] = []
        self.may_go_on = threading.Event()
        self.was_stopped = threading.Event()

    def rows(self) -> Sequence[ModelRow]:
        if self.error:
            raise ModelNotFoundError(self.error)
        return self.listed

    def look(self, name: str) -> ModelRow:
        if self.error:
            raise ModelNotFoundError(self.error)
        return ModelRow(name=name, is_cached=False, size_bytes=123_000_000, detail="looked at")

    def pull(self, name: str, report: Report) -> None:
        self.pulled.append(name)
        report(25, 100)
        while not self.may_go_on.wait(0.01):
            if not report(25, 100):
                self.was_stopped.set()
                return
        if self.error:
            raise ModelNotFoundError(self.error)


class Screen(App[None]):
    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self._provider = provider
        self.chosen: list[str | None] = []

    def on_mount(self) -> None:
        self.push_screen(ModelPicker(self._provider), self.chosen.append)

    @property
    def note(self) -> str:
        return str(self.screen.query_one("#picker-note", Static).render())

    @property
    def detail(self) -> str:
        return str(self.screen.query_one("#picker-detail", Static).render())

    @property
    def highlighted(self) -> int | None:
        return self.screen.query_one(OptionList).highlighted

    def shown(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())


async def listed(app: Screen, pilot: Pilot[None], n: int = len(ROWS)) -> None:
    await until(pilot, lambda: app.screen.query_one(OptionList).option_count == n)
    await pilot.pause()


@pytest.mark.parametrize("width", [1, 20, 60, 72, 120])
def test_a_row_fits_and_says_everything_where_there_is_room(width: int) -> None:
    for row in ROWS:
        assert cell_len(row_text(row, width)) <= width
    if width >= 72:
        assert row_text(ROWS[1], width).split() == [
            "mistralai/Mistral-7B-[bold]v0.3" if width == 120 else "…/Mistral-7B-[bold]v0.3",
            "here", "4.1", "GB", "4.5", "bits", "fits", "~41.7", "tok/s",
        ]  # fmt: skip
        assert "pull 80.0 GB    ? bits too large" in row_text(ROWS[2], width)
        assert "fits?" in row_text(ROWS[3], width)
        assert " tight " in row_text(replace(ROWS[0], is_tight=True), width)
        assert " tight" not in row_text(replace(ROWS[2], is_tight=True), width)


def test_the_end_of_a_long_name_is_kept_in_a_narrow_row() -> None:
    name = "someone-with-a-long-name/Mistral-7B-Instruct-v0.3"
    assert row_text(ModelRow(name=name, is_cached=True), 72).startswith(
        "…/Mistral-7B-Instruct-v0.3 "
    )


def test_a_name_with_escapes_does_nothing() -> None:
    assert row_text(ModelRow(name="a\x1b[2J\nb", is_cached=True), 80).startswith("a[2J b ")


def test_every_word_of_a_query_must_be_in_the_name() -> None:
    assert [row.name for row in matching(ROWS, "MI 22")] == ["mixtral-8x22b"]
    assert matching(ROWS, " ") == ROWS
    assert matching(ROWS, "nothing") == []


def test_a_repository_that_is_not_listed_can_be_named_in_full() -> None:
    assert [row.name for row in matching(ROWS, " someone/A-Model_1.0 ")] == ["someone/A-Model_1.0"]
    for query in ("someone/", "/model", "a/b/c", "a/b c", "mistralai", "../x", "a/b\n[x]"):
        assert all(row in ROWS for row in matching(ROWS, query))
    listed = ModelRow(name="some/one", is_cached=True)
    assert matching([listed], "some/one") == [listed]


def test_a_bar_shows_how_far_a_download_is_how_fast_and_how_long_it_will_take() -> None:
    now = 50.0
    pace = Pace("m", clock=lambda: now)
    assert pace.text(0, 0) == "pulling m: 0 B"
    assert pace.text(10_000_000_000, 30_000_000_000) == ("███······· 33%, 10.0 GB of 30.0 GB: m")
    now += 100
    assert pace.text(20_000_000_000, 30_000_000_000) == (
        "██████···· 67%, 20.0 GB of 30.0 GB, 100 MB/s, 1:40 left: m"
    )
    now += 4000
    assert "2.4 MB/s, 1:08:20 left" in pace.text(20_000_000_000, 30_000_000_000)
    assert pace.text(30_000_000_000, 30_000_000_000).startswith("█" * 10 + " 100%")
    assert pace.text(500, 100).startswith("█" * 10 + " 100%")


@pytest.mark.parametrize(("size", "no_color"), [((80, 24), True), ((140, 45), False)])
async def test_typing_filters_and_enter_chooses(
    size: tuple[int, int], no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    app = Screen(Provider())
    async with app.run_test(size=size) as pilot:
        await listed(app, pilot)
        shown = app.shown()
        assert all(word in shown for word in ("too large", "4.5 bits", "fits?", "-7B-["))
        await pilot.press("2", "b")
        assert app.screen.query_one(OptionList).option_count == 2
        await pilot.press("down", "down", "enter")
        await pilot.pause()
        assert app.chosen == ["codestral-22b"]


async def test_a_pull_shows_how_far_it_is_and_ends_in_the_list() -> None:
    provider = Provider()
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "p")
        assert "is here already" in app.note
        await pilot.press("down", "down", "p")
        await until(pilot, lambda: "25%, 25 B of 100 B: mixtral-8x22b" in app.note)
        await pilot.press("p")
        assert "one download at a time" in app.note
        provider.listed = [*ROWS, ModelRow(name="new", is_cached=True)]
        provider.may_go_on.set()
        await listed(app, pilot, len(ROWS) + 1)
        assert provider.pulled == ["mixtral-8x22b"]
        assert "mixtral-8x22b: is here" in app.note


async def test_the_row_under_the_cursor_says_more_as_plain_text() -> None:
    app = Screen(Provider())
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "down", "down")
        await pilot.pause()
        assert app.detail == "needs [b]90 GB[/b] of 16 GB"
        await pilot.press("up")
        await pilot.pause()
        assert app.detail == ""


async def test_the_hub_is_asked_about_a_model_only_when_told_to() -> None:
    provider = Provider()
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "i")
        assert "is here already" in app.note
        await pilot.press("down", "down", "i")
        await until(pilot, lambda: "as the Hub describes it" in app.note)
        assert "123 MB" in app.shown()
        assert (app.detail, app.highlighted) == ("looked at", 2)
        provider.error = "no connection; try again"
        await pilot.press("end", "i")
        await until(pilot, lambda: "no connection" in app.note)
        await pilot.press("home", "up", *"some/one")
        await until(pilot, lambda: app.detail == "i asks the Hub what it is")
        await pilot.press("enter")
        await pilot.pause()
        assert app.chosen == ["some/one"]


async def test_escape_ends_the_download_first_and_the_list_then() -> None:
    provider = Provider()
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "end", "p")
        await until(pilot, lambda: "25%" in app.note)
        await pilot.press("escape")
        await until(pilot, lambda: "stopped; files that are whole are kept" in app.note)
        assert provider.was_stopped.is_set()
        assert app.chosen == []
        await pilot.press("escape")
        await pilot.pause()
        assert app.chosen == [None]


async def test_errors_are_one_line_of_plain_text() -> None:
    provider = Provider()
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "end", "p")
        provider.error = "no [red]space[/]\nleft\x1b[2J; free some"
        provider.may_go_on.set()
        await until(pilot, lambda: app.note.startswith("no [red]space[/] left"))
        assert "\x1b" not in app.note


async def test_a_list_that_cannot_be_made_says_why() -> None:
    provider = Provider()
    provider.error = "the cache cannot be read; check its permissions"
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await until(pilot, lambda: "permissions" in app.note)
        await pilot.press("down", "enter", "p")
        assert app.chosen == []


async def test_up_on_the_first_row_goes_back_to_the_filter() -> None:
    app = Screen(Provider())
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "down", "up", "up")
        assert app.focused is not None
        assert app.focused.id == "picker-filter"
        await pilot.press("p")
        assert app.screen.query_one(OptionList).option_count == 0
