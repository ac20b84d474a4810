"""The status line: every figure where there is room, the important ones where there is not."""

from __future__ import annotations

import pytest
from panel_facts import facts, progress
from panel_waiting import until
from rich.cells import cell_len
from textual.app import App, ComposeResult

from mlx_mistral.live.events import Failed, Finished, Loaded, LoadFailed, Loading, Reading
from mlx_mistral.tui.panels.status_line import Status, StatusLine, activity_text, after, text

PARTS = {
    "decode": "42.1 tok",
    "used": "1,234",
    "memory": "mem",
    "prefill": "812",
    "first": "0.42 s",
    "cache": "128 MB",
}
"""In the order of importance, each with what shows that it is there."""


def test_everything_is_there_where_there_is_room() -> None:
    line = text(progress(), facts(), 200)
    assert line == (
        "42.1 tokens/s · prefill 812 tokens/s · first token 0.42 s · "
        "1,234 of 32,768 tokens (4%) · cache 128 MB · memory 4.2 GB of 12.0 GB"
    )


def test_all_figures_fit_80_columns_in_short() -> None:
    line = text(progress(), facts(), 80)
    assert all(shown in line for shown in PARTS.values())
    assert "mem 35%" in line


@pytest.mark.parametrize("n", [0, 1, 999, 123_456, 10_000_000])
def test_no_width_is_exceeded_and_less_room_never_shows_more(n: int) -> None:
    figures = progress(cache_tokens=n, decode_tps=42.1, prefill_tps=812)
    names = {**PARTS, "used": f"{n:,}"}
    before: set[str] = set()
    for width in range(1, 200):
        line = text(figures, facts(), width)
        assert cell_len(line) <= width
        shown = {name for name, sign in names.items() if sign in line}
        if width >= 12:
            assert before <= shown
            assert shown == set(list(names)[: len(shown)]), line
        before = shown if width >= 12 else set()


def test_a_time_that_has_not_come_and_a_context_without_end_are_left_out() -> None:
    line = text(progress(first_token_seconds=None), facts(context=None), 200)
    assert "first token" not in line
    assert "1,234 tokens ·" in line


def test_before_a_reply_the_model_is_named_without_what_its_name_would_do() -> None:
    line = text(None, facts(name="a\x1b[2Jb\nc\u202ed"), 200)
    assert line == ("a[2Jb cd · 4.1 GB of weights · 4.5 bits a weight · context 32,768 tokens")
    assert text(None, None, 80) == "no model"


def test_waiting_is_told_with_how_far_it_is() -> None:
    loading = Loading(model="m", stage="weights", done=1, total=4)
    assert activity_text(loading, 80) == "weights 25%: m"
    reading = Reading(id=1, done=2048, total=10_000, reused=300)
    assert activity_text(reading, 80) == ("reading 2,048 of 10,000 tokens · 300 were in the cache")
    assert all(cell_len(activity_text(reading, width)) <= width for width in range(1, 80))


def test_events_change_what_they_tell_of_and_nothing_else() -> None:
    status = after(Status(), Loading(model="m", stage="weights"))
    assert status.activity is not None
    status = after(status, Loaded(facts=facts(), seconds=1.0))
    assert status == Status(facts=facts())
    status = after(status, Reading(id=1, done=0, total=5, reused=0))
    assert after(status, Failed(id=1, error="no")).activity is None
    status = after(status, progress())
    assert status == Status(facts=facts(), progress=progress())
    end = Finished(id=1, reason="stop", progress=progress(reply_tokens=50))
    assert after(status, end).progress == end.progress
    assert after(status, LoadFailed(model="x", error="gone")) == Status()


class Screen(App[None]):
    def compose(self) -> ComposeResult:
        yield StatusLine()


def shown(app: App[None]) -> str:
    return str(app.query_one(StatusLine).render())


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
async def test_the_line_follows_events_and_the_width(size: tuple[int, int]) -> None:
    app = Screen()
    async with app.run_test(size=size) as pilot:
        line = app.query_one(StatusLine)
        line.show(Loaded(facts=facts(name="[red]m"), seconds=1.0))
        await pilot.pause()
        assert shown(app).startswith("[red]m")
        line.show(progress())
        await pilot.pause()
        assert shown(app) == text(progress(), facts(), size[0])
        await pilot.resize_terminal(40, 24)
        await until(pilot, lambda: shown(app) == text(progress(), facts(), 40))
