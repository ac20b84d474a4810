from __future__ import annotations

import io
import sys

import pytest

from mlx_mistral.cli import terminal
from mlx_mistral.cli.convert import short_name
from mlx_mistral.cli.progress_bar import WIDTH, ProgressBar, clock_time


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def look(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A person at a terminal. Not a fixture: pytest gives each phase a stderr of its own."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", terminal)
    return terminal


def drawn(terminal: Terminal) -> list[str]:
    return terminal.getvalue().split("\r\x1b[K")[1:]


def test_it_shows_share_amount_speed_time_left_and_what_is_at_work(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    terminal = look(monkeypatch)
    bar = ProgressBar(quiet=False, clock=clock)
    bar.update(0, 26e9, "embed_tokens")
    clock.now += 10
    bar.update(6.5e9, 26e9, "layer 3 up_proj")
    clock.now += 30
    bar.update(26e9, 26e9, "lm_head")
    assert drawn(terminal) == [
        "[----------------] 0% 0.0 of 26.0 GB embed_tokens",
        "[####------------] 25% 6.5 of 26.0 GB 0.65 GB/s 0:30 left layer 3 up_proj",
        "[################] 100% 26.0 of 26.0 GB 0.65 GB/s 0:00 left lm_head",
    ]


def test_what_an_earlier_run_did_does_not_count_as_speed(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    terminal = look(monkeypatch)
    bar = ProgressBar(quiet=False, clock=clock)
    bar.update(8e9, 10e9, "a")
    clock.now += 1
    bar.update(9e9, 10e9, "b")
    assert drawn(terminal)[-1].endswith("90% 9.0 of 10.0 GB 1.00 GB/s 0:01 left b")


def test_small_models_are_counted_in_megabytes_and_steps_in_steps(clock: Clock) -> None:
    assert "2.5 of 5.0 MB" in ProgressBar(quiet=False, clock=clock).text(2.5e6, 5e6, "x")
    steps = ProgressBar(quiet=False, unit_bytes=False, clock=clock).text(1200, 2400, "x")
    assert "1,200 of 2,400" in steps
    assert "GB" not in steps


@pytest.mark.parametrize(("done", "total"), [(0, 0), (5, 0), (7, 5), (0, 1)])
def test_amounts_at_the_edge_are_drawn_too(done: int, total: int, clock: Clock) -> None:
    bar = ProgressBar(quiet=True, clock=clock)
    bar.update(done, total, "x")
    clock.now += 1
    text = bar.text(done, total, "x")
    assert text.count("#") + text.count("-") == WIDTH
    assert ("100%" in text) == (done >= total)


def test_it_is_drawn_ten_times_a_second_and_at_the_end(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    terminal = look(monkeypatch)
    bar = ProgressBar(quiet=False, clock=clock)
    for done in range(1000):
        bar.update(done, 1000, "x")
        clock.now += 0.001
    assert len(drawn(terminal)) == 10
    bar.update(1000, 1000, "x")
    assert "100%" in drawn(terminal)[-1]
    bar.clear()
    assert terminal.getvalue().endswith("\r\x1b[K")


@pytest.mark.parametrize("reason", ["quiet", "no terminal", "dumb"])
def test_it_is_silent_where_nobody_looks(
    reason: str, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setenv("TERM", "dumb" if reason == "dumb" else "xterm")
    monkeypatch.setattr(sys, "stderr", io.StringIO() if reason == "no terminal" else Terminal())
    bar = ProgressBar(quiet=reason == "quiet", clock=clock)
    bar.update(1, 2, "x")
    bar.clear()
    assert isinstance(sys.stderr, io.StringIO)
    assert sys.stderr.getvalue() == ""


def test_a_name_from_a_file_cannot_move_the_cursor(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    terminal = look(monkeypatch)
    bar = ProgressBar(quiet=False, clock=clock)
    bar.update(1, 2, "evil\x1b[2J\nname")
    assert drawn(terminal)[0].endswith("evil[2J name")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (-3, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (723, "12:03"), (3723, "1:02:03")],
)
def test_times_read_like_a_clock(seconds: float, text: str) -> None:
    assert clock_time(seconds) == text


def test_a_line_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "_has_escapes", lambda: True)
    monkeypatch.setattr(terminal, "_columns", lambda: 40)
    monkeypatch.setattr(sys, "stderr", shown)
    terminal.Progress(quiet=False).show("x" * 200)
    assert shown.getvalue().endswith("x" * 39)
    assert "x" * 40 not in shown.getvalue()


def test_names_of_parameters_are_short() -> None:
    long = "model.layers.12.block_sparse_moe.switch_mlp.gate_proj.weight"
    assert short_name(long) == "layer 12 gate_proj"
    assert short_name("model.embed_tokens.weight") == "embed_tokens"
    assert short_name("lm_head.weight") == "lm_head"
