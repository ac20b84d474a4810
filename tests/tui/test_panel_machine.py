"""The side panel: its pictures against what they stand for, and what it costs when hidden."""

from __future__ import annotations

import random
from typing import Any

import pytest
from panel_facts import facts, progress, routed
from textual.app import App, ComposeResult

from mlx_mistral.live.events import Loaded
from mlx_mistral.tui.panels import machine
from mlx_mistral.tui.panels.chart import braille_bars
from mlx_mistral.tui.panels.heat_map import SHADES, ExpertCounts, cell_of, heat_map
from mlx_mistral.tui.panels.machine import CacheRing, ExpertMap, MachinePanel, Speed, speeds
from mlx_mistral.tui.panels.ring import FREE, HEAD, NEW, OLD, cache_lines, ring_cells


def naive_ring(tokens: int, window: int) -> str:
    """The ring slot by slot, each token written in turn."""
    slots: list[int | None] = [None] * window
    for token in range(tokens):
        slots[token % window] = token
    newest = tokens - 1
    cells = []
    for slot in slots:
        if slot is None:
            cells.append(FREE)
        elif slot == newest:
            cells.append(HEAD)
        else:
            cells.append(NEW if slot // window == newest // window else OLD)
    return "".join(cells)


@pytest.mark.parametrize("window", [1, 2, 4, 7])
def test_a_ring_of_as_many_cells_as_slots_shows_each_slot(window: int) -> None:
    for tokens in range(3 * window + 2):
        assert ring_cells(tokens, window, window) == naive_ring(tokens, window)


def test_the_worked_example() -> None:
    assert ring_cells(6, 4, 4) == NEW + HEAD + OLD + OLD


@pytest.mark.parametrize(("window", "cells"), [(4096, 60), (64, 60), (3, 60), (1, 7)])
def test_a_ring_of_other_sizes_has_one_head_and_fills_before_it_wraps(
    window: int, cells: int
) -> None:
    for tokens in [1, window // 2 or 1, window, window + 1, 2 * window, 5 * window + 2]:
        ring = ring_cells(tokens, window, cells)
        assert len(ring) == cells
        assert ring.count(HEAD) == 1
        assert (FREE in ring) <= (tokens < window)
        assert (OLD in ring) <= (tokens > window)
        before, behind = ring.split(HEAD)
        assert set(before) <= {NEW}
        assert len(set(behind) - {NEW}) <= 1
    assert ring_cells(0, window, cells) == FREE * cells


@pytest.mark.parametrize("size", [(36, 18), (36, 7), (12, 5), (5, 2), (1, 1), (80, 40)])
@pytest.mark.parametrize(
    "windows", [(None,) * 3, (4096,) * 4, (None, 64, 64, None, 8), (1,), (None,)]
)
def test_pictures_of_caches_stay_in_their_room(
    size: tuple[int, int], windows: tuple[int | None, ...]
) -> None:
    for tokens in (0, 1, 63, 64, 65, 100_000):
        for context in (None, 32768):
            lines = cache_lines(tokens, windows, *size, context=context)
            assert 0 < len(lines) <= size[1]
            assert max(map(len, lines)) <= size[0]


def test_full_windowed_and_mixed_layers_are_told_apart() -> None:
    full = "\n".join(cache_lines(100, (None, None), 40, 12, context=200))
    assert "2 layers, all: 100 of 200" in full
    assert full.count(NEW) + full.count(HEAD) == 20
    assert OLD not in full
    ring = "\n".join(cache_lines(150, (64,) * 3, 40, 12))
    assert "3 layers: window 64" in ring
    assert "64 held" in ring
    assert "wrapped 2×" in ring
    mixed = "\n".join(cache_lines(10, (64, None, 64, 8), 40, 20, context=100))
    assert "2 layers: window 64" in mixed
    assert "1 layer: window 8" in mixed
    assert "1 layer, all: 10 of 100" in mixed


def test_the_border_read_clockwise_is_the_ring() -> None:
    lines = cache_lines(1000, (300,), 30, 7)
    top, *middle, bottom = lines
    border = top + "".join(line[-1] for line in middle) + bottom[::-1]
    border += "".join(line[0] for line in reversed(middle))
    assert border == ring_cells(1000, 300, len(border))


def test_bars_are_as_high_as_their_values() -> None:
    def heights(lines: list[str]) -> list[int]:
        columns = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
        return [
            sum(bool((ord(line[x]) - 0x2800) & bit) for line in lines for bit in columns[side])
            for x in range(len(lines[0]))
            for side in (0, 1)
        ]

    assert heights(braille_bars([1, 2, 4, 8], 2, 2)) == [1, 2, 4, 8]
    assert heights(braille_bars([0, 0.001, 5], 2, 3)) == [0, 0, 1, 12]
    assert heights(braille_bars(range(1, 100), 2, 1)) == [4, 4, 4, 4]
    assert heights(braille_bars([], 3, 2)) == [0] * 6
    assert braille_bars([1], 0, 2) == []


def test_speeds_between_averages_are_those_of_the_tokens_between() -> None:
    """10 tokens at 20 a second, then 10 at 5: after the first token, 0.5 s and 2 s.

    Of the second reply, as of any that takes no longer, one figure is all there is.
    """
    told = [
        progress(reply_tokens=1, decode_tps=0.0),
        progress(reply_tokens=11, decode_tps=10 / 0.5),
        progress(reply_tokens=21, decode_tps=20 / 2.5),
        progress(reply_tokens=21, decode_tps=20 / 2.5),
        progress(id=2, reply_tokens=30, decode_tps=99.0),
    ]
    assert speeds(told) == pytest.approx([20.0, 5.0, 99.0])


def test_experts_are_counted_and_nonsense_is_left_out() -> None:
    counts = ExpertCounts(2, 3)
    counts.add(1, ((1, 0, 1), (0, 2, 0)))
    counts.add(2, ((1, 0, 0, 7), (0,), (2,)))
    counts.add(0, ())
    assert counts.tokens == 3
    assert counts.rows() == [[2, 0], [0, 2], [1, 0]]


def test_shades_rise_with_counts_and_nothing_is_blank() -> None:
    (line,) = heat_map([[0, 1, 25, 26, 50, 51, 75, 76, 100]], 20, 5)
    assert line == " ░░▒▒▓▓██"
    assert [SHADES.index(shade) for shade in line] == sorted(SHADES.index(c) for c in line)
    assert heat_map([[0, 0]], 5, 5) == ["  "]


def test_maps_larger_than_their_room_share_cells() -> None:
    random.seed(1)
    rows = [[random.randrange(9) for _ in range(70)] for _ in range(128)]
    lines = heat_map(rows, 36, 16)
    assert len(lines) == 16
    assert {len(line) for line in lines} == {36}
    hot = [[0] * 70 for _ in range(128)]
    hot[127][69] = 1
    lines = heat_map(hot, 36, 16)
    assert lines[cell_of(127, 128, 16)][cell_of(69, 70, 36)] == "█"
    assert sum(cell != " " for line in lines for cell in line) == 1


class Screen(App[None]):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[bool, bool]] = []

    def compose(self) -> ComposeResult:
        yield MachinePanel()

    def on_machine_panel_opened(self, event: MachinePanel.Opened) -> None:
        self.told.append((event.opened, event.experts))


MIXTURE = Loaded(facts=facts(n_experts=8, experts_per_token=2, windows=(None,) * 4), seconds=1.0)


def text_of(app: App[None], widget: type[Speed] | type[CacheRing] | type[ExpertMap]) -> str:
    return str(app.query_one(widget).render())


async def test_a_hidden_panel_draws_and_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def counted(name: str, work: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return work(*args, **kwargs)

        return call

    for name in ("cache_lines", "braille_bars", "heat_map", "speeds", "ExpertCounts"):
        monkeypatch.setattr(machine, name, counted(name, getattr(machine, name)))
    app = Screen()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.query_one(MachinePanel)
        panel.show(MIXTURE)
        for n in range(50):
            panel.show(routed())
            panel.show(progress(reply_tokens=n + 1))
        await pilot.pause()
        assert calls == []
        panel.toggle()
        await pilot.pause()
        panel.show(routed())
        panel.show(progress(reply_tokens=60))
        await pilot.pause()
        assert set(calls) == {"cache_lines", "braille_bars", "heat_map", "speeds", "ExpertCounts"}
        panel.toggle()
        await pilot.pause()
        calls.clear()
        panel.show(routed())
        panel.show(progress(reply_tokens=61))
        await pilot.pause()
        assert calls == []


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
async def test_an_open_panel_shows_speed_cache_and_experts(size: tuple[int, int]) -> None:
    app = Screen()
    async with app.run_test(size=size) as pilot:
        panel = app.query_one(MachinePanel)
        panel.toggle()
        panel.show(MIXTURE)
        for n in range(4):
            panel.show(routed())
            panel.show(progress(reply_tokens=10 * (n + 1), decode_tps=20.0))
        await pilot.pause()
        await pilot.pause()
        assert app.told[-1] == (True, True)
        assert "20.0 tokens/s" in text_of(app, Speed)
        assert "4 layers, all: 1,234 of 32,768" in text_of(app, CacheRing)
        experts = app.query_one(ExpertMap)
        assert experts.display
        assert text_of(app, ExpertMap).splitlines()[1][0] == "█"
        experts.focus()
        await pilot.press("down", "down", "down", "right")
        assert text_of(app, ExpertMap).endswith("layer 2, expert 4: 4 (100%)")
        for widget in (Speed, CacheRing, ExpertMap):
            room = app.query_one(widget).content_size
            lines = text_of(app, widget).splitlines()
            assert len(lines) <= room.height
            assert max(map(len, lines)) <= room.width


async def test_counts_begin_anew_with_a_reply_and_a_dense_model_has_no_map() -> None:
    app = Screen()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.query_one(MachinePanel)
        panel.toggle()
        panel.show(MIXTURE)
        panel.show(routed())
        panel.show(routed(id=2))
        panel.show(progress(id=2))
        await pilot.pause()
        assert "layers →, 1 token\n" in text_of(app, ExpertMap)
        panel.show(Loaded(facts=facts(), seconds=1.0))
        await pilot.pause()
        assert not app.query_one(ExpertMap).display
        assert app.told[-1] == (True, False)
        assert "window 4,096" in text_of(app, CacheRing)


async def test_the_panel_says_the_same_without_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    app = Screen()
    async with app.run_test(size=(80, 24)) as pilot:
        panel = app.query_one(MachinePanel)
        panel.toggle()
        panel.show(MIXTURE)
        panel.show(routed())
        panel.show(progress())
        await pilot.pause()
        await pilot.pause()
        screen = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert all(sign in screen for sign in ("█", HEAD, FREE, "experts ↓ layers →"))
