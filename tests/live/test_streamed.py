"""A mixture of experts that does not fit its budget answers all the same, held in part."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral.demo import model_path
from mlx_mistral.live.commands import Load, Reply
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import (
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    Noted,
    Piece,
)
from mlx_mistral.live.model import load_live
from mlx_mistral.streaming import StreamedModel
from tests.live.live_models import Desk, asked, assistant, of, text_of, user

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


class Disk:
    """Reads of experts, which fail from a moment on."""

    def __init__(self) -> None:
        self.fails = False
        self._read = os.preadv

    def __call__(self, *arguments: Any) -> int:
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return self._read(*arguments)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo, to be damaged."""
    copy = tmp_path / "model"
    shutil.copytree(model_path(), copy)
    return copy


def test_files_that_go_wrong_in_mid_reply_end_it_in_one_line_and_the_chat_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count_from_here(monkeypatch)
    disk, model = Disk(), folder / "model.safetensors"
    monkeypatch.setattr(os, "preadv", disk)
    desk, load = Desk(LiveEngine(memory=SMALL)), Load(model=str(folder))

    def ask(id: int, begun: tuple[int, ...] = ()) -> Reply:
        turns = (user("Who are you?"), assistant("A model."), user("Tell me about the sea."))
        return asked(*turns, id=id, begun=begun, max_tokens=12, settings={"temperature": 0.0})

    def fail_after_a_token(event: Event) -> None:
        disk.fails |= isinstance(event, Piece)

    def shrink_after_a_token(event: Event) -> None:
        if isinstance(event, Piece):
            os.truncate(model, model.stat().st_size // 4)

    try:
        desk.do(load)
        expected = text_of(desk.do(ask(1)))
        for id, harm, reason in (
            (2, fail_after_a_token, "cannot be read: Input/output error"),
            (3, shrink_after_a_token, "changed while its experts were read"),
        ):
            desk.on_event = harm
            broken = desk.do(ask(id))
            desk.on_event = lambda event: None
            disk.fails = False
            assert isinstance(broken[-1], Failed)
            assert str(model) in broken[-1].error
            assert reason in broken[-1].error
            assert "\n" not in broken[-1].error
            assert "" != text_of(broken) == expected[: len(text_of(broken))]
            if harm is shrink_after_a_token:
                assert isinstance(desk.do(ask(40))[-1], Failed)
                shutil.copy(model_path() / model.name, model)
                desk.do(load)
            # What was said is kept, and the reply can be gone on with.
            said = tuple(piece.token for piece in of(Piece, broken))
            assert text_of(desk.do(ask(50 + id, begun=said))) == expected
        model.unlink()
        assert text_of(desk.do(ask(60))) == expected
    finally:
        desk.engine.close()
