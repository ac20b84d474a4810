"""The list of models: filter, choose, pull, and what went wrong in one line."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
from panel_waiting import until
from rich.cells import cell_len
from textual.app import App
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from mlx_mistral.errors import ModelNotFoundError
from mlx_mistral.tui.pickers.model_rows import ModelRow, Report, bar_text, matching, row_text
from mlx_mistral.tui.pickers.models import ModelPicker

ROWS = [
    ModelRow(name="demo", is_cached=True, size_bytes=4_200_000, bits=16.0, fits=True,
             decode_tps=812.0),
    ModelRow(name="mistralai/Mistral-7B-[bold]v0.3", is_cached=True, size_bytes=4_080_000_000,
             bits=4.5, fits=True, decode_tps=41.7),
    ModelRow(name="mixtral-8x22b", is_cached=False, size_bytes=80_000_000_000, fits=False),
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
            "mistralai/Mistral-7B-[bold]v0.3" if width == 120 else "mistralai/Mistral-7B-[bo…",
            "here", "4.1", "GB", "4.5", "bits", "fits", "~41.7", "tok/s",
        ]  # fmt: skip
        assert "pull 80.0 GB    ? bits too large" in row_text(ROWS[2], width)
        assert "fit unknown" in row_text(ROWS[3], width)


def test_a_name_with_escapes_does_nothing() -> None:
    assert row_text(ModelRow(name="a\x1b[2J\nb", is_cached=True), 80).startswith("a[2J b ")


def test_every_word_of_a_query_must_be_in_the_name() -> None:
    assert [row.name for row in matching(ROWS, "MI 22")] == ["mixtral-8x22b"]
    assert matching(ROWS, " ") == ROWS
    assert matching(ROWS, "nothing") == []


def test_a_bar_shows_how_far_a_download_is() -> None:
    assert bar_text("m", 50, 100) == "█" * 10 + "·" * 10 + " 50% of 100 B: m"
    assert bar_text("m", 2_000_000, 0) == "pulling m: 2.0 MB"
    assert bar_text("m", 500, 100).startswith("█" * 20 + " ")


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
        assert all(word in shown for word in ("too large", "4.5 bits", "fit unknown", "-7B-["))
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
        await until(pilot, lambda: "25% of 100 B: mixtral-8x22b" in app.note)
        await pilot.press("p")
        assert "one download at a time" in app.note
        provider.listed = [*ROWS, ModelRow(name="new", is_cached=True)]
        provider.may_go_on.set()
        await listed(app, pilot, len(ROWS) + 1)
        assert provider.pulled == ["mixtral-8x22b"]
        assert "mixtral-8x22b: is here" in app.note


async def test_escape_ends_the_download_first_and_the_list_then() -> None:
    provider = Provider()
    app = Screen(provider)
    async with app.run_test(size=(80, 24)) as pilot:
        await listed(app, pilot)
        await pilot.press("down", "end", "p")
        await until(pilot, lambda: "25%" in app.note)
        await pilot.press("escape")
        await until(pilot, lambda: "stopped; p goes on" in app.note)
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
