"""A mixture of experts that does not fit its budget answers all the same, held in part."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import mlx.core as mx
import pytest

from mlx_mistral.live.commands import Load
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import Finished, Loaded, LoadFailed, Loading, Noted
from mlx_mistral.live.model import load_live
from mlx_mistral.streaming import StreamedModel
from tests.live.live_models import Desk, asked, of, text_of, user

DEMO = Load(model="demo")
SMALL = 9_000_000
"""The demo takes 15 MB."""


def said(engine: LiveEngine) -> Iterator[object]:
    desk = Desk(engine)
    try:
        yield from desk.do(DEMO)
        yield from desk.do(asked(user("Who are you?"), settings={"temperature": 0.0}))
    finally:
        desk.engine.close()


def count_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests hold in this process is not the budget's."""
    gc.collect()
    counted, before = mx.get_active_memory, mx.get_active_memory()
    monkeypatch.setattr(mx, "get_active_memory", lambda: max(0, counted() - before))


def test_experts_that_do_not_fit_are_read_as_they_are_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = list(said(LiveEngine()))
    count_from_here(monkeypatch)
    streamed = list(said(LiveEngine(memory=SMALL)))
    assert text_of(streamed) == text_of(whole) != ""
    assert of(Noted, whole) == []
    (note,) = of(Noted, streamed)
    assert "experts are held at a time" in note.line
    assert of(Finished, streamed)[0].progress.memory_limit_bytes == SMALL
    held, everything = (of(Loaded, events)[0].facts.weight_bytes for events in (streamed, whole))
    assert held < SMALL < everything


def test_its_loading_is_told_by_bytes_and_may_be_stopped() -> None:
    told: list[Loading | Noted] = []
    live = load_live(DEMO, told.append, lambda: None, memory=SMALL)
    assert isinstance(live.model, StreamedModel)
    weights = [event for event in of(Loading, told) if event.stage == "weights"]
    assert [event.done for event in weights] == sorted({event.done for event in weights})
    assert (weights[0].done, weights[-1].done) == (0, weights[-1].total)

    def stop() -> None:
        if len(told) > n_before + 6:
            raise KeyboardInterrupt

    n_before = len(told)
    with pytest.raises(KeyboardInterrupt):
        load_live(DEMO, told.append, stop, memory=SMALL)
    assert not of(Noted, told[n_before:])


def test_what_has_no_room_even_so_is_refused_in_one_line() -> None:
    desk = Desk(LiveEngine(memory=1_000_000))
    try:
        failed = of(LoadFailed, desk.do(DEMO))[0].error
    finally:
        desk.engine.close()
    assert "memory budget is 1.00 MB" in failed
    assert "\n" not in failed
