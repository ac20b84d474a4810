"""A model on its thread: commands in, events out, and nothing that happens there ends it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral.completion import generate
from mlx_mistral.live.commands import Count, Load, Message, Reply, Settings, Watch
from mlx_mistral.live.engine import CLOSING, NO_MODEL, STOPPED, LiveEngine, in_one_line
from mlx_mistral.live.events import (
    Counted,
    Event,
    Failed,
    Finished,
    Loaded,
    LoadFailed,
    Loading,
    Piece,
    Reading,
    Routed,
)
from mlx_mistral.live.model import load_live
from mlx_mistral.live.protocol import Engine
from mlx_mistral.loading import load
from tests.live.live_models import Desk, asked, ends, of, text_of, user

DEMO = Load(model="demo")
HELLO = user("Hello")


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.engine.close()


@pytest.fixture(scope="module")
def demo() -> Iterator[Desk]:
    """With the demo loaded; tests leave it loaded and idle."""
    desk = Desk()
    desk.do(DEMO)
    yield desk
    desk.engine.close()


def endless(id: int, text: str = "Tell me a story") -> Reply:
    """A reply that does not end by itself within a test: hot tokens, many of them."""
    return Reply(
        id=id, messages=(user(text),), settings=Settings(temperature=50.0, max_tokens=20000)
    )


def test_the_engine_is_what_the_protocol_asks_for() -> None:
    engine: Engine = LiveEngine()
    assert engine


def test_loading_is_told_by_bytes_and_ends_with_facts(desk: Desk) -> None:
    *before, loaded = desk.do(DEMO)
    weights = [event for event in of(Loading, before) if event.stage == "weights"]
    assert [event.done for event in weights] == sorted({event.done for event in weights})
    assert (weights[0].done, weights[-1].done) == (0, weights[-1].total)
    assert isinstance(loaded, Loaded)
    assert loaded.seconds > 0
    facts = loaded.facts
    assert (facts.name, facts.family, facts.n_layers, facts.context) == (
        "demo",
        "mixtral",
        6,
        32768,
    )
    assert (facts.n_experts, facts.experts_per_token, facts.windows) == (8, 2, (48,) * 6)
    assert 0 < facts.active_parameters < facts.parameters
    assert facts.weight_bytes == facts.parameters * 4
    assert facts.has_chat_format


def test_a_model_decodes_with_joined_maps_as_elsewhere() -> None:
    live = load_live(DEMO, lambda event: None, lambda: None)
    assert all(layer.self_attn.fused() for layer in live.model.layers)


def test_a_reply_is_what_generate_makes(demo: Desk) -> None:
    model, tokenizer = load("demo")
    ids = tokenizer.encode_chat(
        [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    )
    told = demo.do(
        Reply(id=3, messages=(HELLO,), settings=Settings(max_tokens=12, system="Be brief."))
    )
    assert text_of(told) == generate(model, tokenizer, ids, max_tokens=12)
    finished = told[-1]
    assert isinstance(finished, Finished)
    progress = finished.progress
    assert (progress.prompt_tokens, progress.reply_tokens) == (len(ids), len(of(Piece, told)))
    assert progress.cache_tokens >= len(ids)
    assert progress.cache_bytes > 0
    assert progress.memory_bytes > 0
    assert progress.memory_limit_bytes > 1 << 28
    assert progress.first_token_seconds is not None
    assert {event.id for event in told if not isinstance(event, Loading | Loaded)} == {3}


def test_a_seed_repeats_a_reply_and_reads_one_token(demo: Desk) -> None:
    hot = {"temperature": 1.5, "seed": 11}
    first, again = (demo.do(asked(HELLO, id=i, max_tokens=8, settings=hot)) for i in (4, 5))
    assert text_of(first) == text_of(again)
    assert of(Reading, again)[-1].total == 1


def test_a_text_is_counted_without_control_tokens(demo: Desk) -> None:
    _, tokenizer = load("demo")
    text = "[INST] Hello </s>"
    told = demo.do(Count(id=6, text=text))
    assert told == [Counted(id=6, tokens=len(tokenizer.encode(text)))]


def test_stopping_ends_a_reply_after_a_token_and_those_that_wait_at_once(demo: Desk) -> None:
    pieces_at_stop: list[int] = []
    replies = [endless(id) for id in (21, 22, 23)]

    def stop_at_third(event: Event) -> None:
        if isinstance(event, Piece):
            pieces_at_stop.append(event.id)
            if len(pieces_at_stop) == 3:
                demo.engine.stop()

    demo.on_event = stop_at_third
    for reply in replies:
        demo.engine.submit(reply)
    told: list[Event] = []
    while len(of(Finished, told)) < 3:
        told += demo.until(lambda event: isinstance(event, Finished | Failed))
    demo.on_event = lambda event: None
    assert len(of(Piece, told)) == 3
    assert {event.id: event.reason for event in of(Finished, told)} == dict.fromkeys(
        (21, 22, 23), "stopped"
    )


def test_a_waiting_reply_can_be_stopped_while_another_goes_on(demo: Desk) -> None:
    def on_first_piece(event: Event) -> None:
        if isinstance(event, Piece):
            demo.on_event = lambda event: None
            demo.engine.stop(32)

    demo.on_event = on_first_piece
    demo.engine.submit(endless(31))
    demo.engine.submit(endless(32))
    demo.engine.submit(Count(id=33, text="in between"))
    told = demo.until(lambda event: isinstance(event, Finished))
    assert told[-1].id == 32  # type: ignore[union-attr]
    assert len(of(Counted, told)) == 1
    demo.engine.stop(31)
    last = demo.until(lambda event: isinstance(event, Finished))[-1]
    assert (last.id, last.reason) == (31, "stopped")  # type: ignore[union-attr]


def test_reading_a_long_prompt_can_be_stopped_within_a_chunk(demo: Desk) -> None:
    long = user("Once more, with feeling. " * 150)

    def at_first_chunk(event: Event) -> None:
        if isinstance(event, Reading) and event.done:
            demo.engine.stop(41)

    demo.on_event = at_first_chunk
    told = demo.do(asked(long, id=41))
    demo.on_event = lambda event: None
    assert told[-1].reason == "stopped"  # type: ignore[union-attr]
    read = of(Reading, told)[-1]
    assert 0 < read.done < read.total
    again = demo.do(asked(long, id=42, max_tokens=1))
    assert of(Reading, again)[0].reused >= read.done


def test_stopping_nothing_is_no_error(desk: Desk) -> None:
    desk.engine.stop()
    desk.engine.stop(99)
    LiveEngine().stop(1)
    assert isinstance(desk.do(DEMO)[-1], Loaded)


def test_watching_begins_in_mid_reply(demo: Desk) -> None:
    def on_piece(event: Event) -> None:
        if isinstance(event, Piece):
            demo.engine.submit(Watch(probabilities=True, experts=True))
        elif isinstance(event, Routed):
            demo.engine.stop(51)

    demo.on_event = on_piece
    told = demo.do(endless(51))
    demo.on_event = lambda event: None
    demo.engine.submit(Watch())
    assert of(Piece, told)[0].alternatives == ()
    assert len(of(Piece, told)[-1].alternatives) == 8
    for one in of(Routed, told):
        assert [len(layer) for layer in one.counts] == [8] * 6
        assert [sum(layer) for layer in one.counts] == [2 * one.tokens] * 6
    assert 0 < sum(one.tokens for one in of(Routed, told)) < len(of(Piece, told))
    assert of(Piece, told)[-1].probability is not None


def test_without_a_model_replies_and_counts_fail_in_one_line(desk: Desk) -> None:
    assert desk.do(asked(HELLO)) == [Failed(id=1, error=NO_MODEL)]
    assert desk.do(Count(id=2, text="x")) == [Failed(id=2, error=NO_MODEL)]


def test_what_cannot_be_loaded_is_told_in_one_line_and_the_next_load_works(
    desk: Desk, tmp_path: Path
) -> None:
    desk.do(DEMO)
    (tmp_path / "config.json").write_text('{"model_type": "\x1b[31mworse\\nthan that"}')
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 99)
    for name in (str(tmp_path), "no such model", "\x1b]0;x\x07\nname"):
        *_, failed = desk.do(Load(model=name))
        assert isinstance(failed, LoadFailed)
        assert failed.error
        assert failed.error.isprintable()
        first, *_, last = desk.do(asked(HELLO, id=8))
        assert isinstance(first, Loaded), "the model before is still there"
        assert isinstance(last, Finished)
    *_, failed = desk.do(Load(model="demo", context=0))
    assert isinstance(failed, LoadFailed)
    assert desk.do(asked(HELLO, id=8)) == [Failed(id=8, error=NO_MODEL)]
    assert isinstance(desk.do(DEMO)[-1], Loaded)


def test_the_old_model_is_freed_before_the_next_is_read(desk: Desk) -> None:
    held: dict[str, int] = {}

    def on_event(event: Event) -> None:
        if isinstance(event, Loading) and event.stage == "weights" and not event.done:
            gc.collect()
            held["weights"] = mx.get_active_memory()

    before = mx.get_active_memory()
    loaded = desk.do(DEMO)[-1]
    assert isinstance(loaded, Loaded)
    desk.do(asked(HELLO))
    assert mx.get_active_memory() - before >= loaded.facts.weight_bytes
    desk.on_event = on_event
    desk.do(DEMO)
    assert held["weights"] - before < loaded.facts.weight_bytes / 10


def test_messages_that_the_format_refuses_fail_and_the_model_stays(demo: Desk) -> None:
    for messages in ((), (Message(role="wizard", content="x"),), (user("a"), user("b"))):
        *_, last = demo.do(asked(*messages, id=61))
        assert isinstance(last, Failed | Finished)
    assert isinstance(demo.do(asked(id=62))[-1], Failed)
    assert isinstance(demo.do(asked(HELLO, id=63, begun=(1 << 40,)))[-1], Failed)
    *_, too_hot = demo.do(asked(HELLO, id=64, settings={"temperature": -1.0}))
    assert isinstance(too_hot, Failed)
    *_, long = demo.do(asked(user("word " * 40000), id=65))
    assert isinstance(long, Failed)
    assert "larger context" in long.error
    assert isinstance(demo.do(asked(HELLO, id=66))[-1], Finished)


class Panic(BaseException):
    """As Rust libraries raise."""


@pytest.mark.parametrize("error", [RuntimeError("out of\nmemory"), RecursionError(), Panic("no")])
def test_unforeseen_errors_become_one_line_and_the_thread_goes_on(
    demo: Desk, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("mlx_mistral.live.reply.to_chat", broken)
        failed = demo.do(asked(HELLO, id=71))
    assert failed == [Failed(id=71, error=in_one_line(error))]
    assert "\n" not in in_one_line(error)
    assert type(error).__name__ in in_one_line(error)
    assert isinstance(demo.do(asked(HELLO, id=72))[-1], Finished)


def test_a_listener_that_raises_does_not_end_the_thread(demo: Desk) -> None:
    def raising(event: Event) -> None:
        raise ValueError("the screen is gone")

    demo.on_event = raising
    assert isinstance(demo.do(asked(HELLO, id=81))[-1], Finished)
    demo.on_event = lambda event: None


def test_closing_ends_everything_and_leaves_nothing_unanswered() -> None:
    desk, begun = Desk(), threading.Event()
    desk.do(DEMO)
    desk.on_event = lambda event: begun.set() if isinstance(event, Piece) else None
    waiting = [endless(1), endless(2), Load(model="demo")]
    for command in waiting:
        desk.engine.submit(command)
    assert begun.wait(60)
    desk.engine.close()
    desk.engine.close()
    told: list[Event] = []
    while not desk.told.empty():
        told.append(desk.told.get())
    for command in waiting:
        assert len([event for event in told if ends(command, event)]) == 1
    assert told[-1] == LoadFailed(model="demo", error=CLOSING)
    desk.engine.submit(DEMO)
    assert desk.told.empty()


def test_closing_while_a_model_is_loaded_does_not_wait_for_it() -> None:
    desk, begun = Desk(), threading.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, Loading) and event.done and not begun.is_set():
            desk.engine._inbox.close()
            begun.set()

    desk.on_event = on_event
    told = desk.do(DEMO)
    desk.engine.close()
    assert told[-1] == LoadFailed(model="demo", error=CLOSING)
    assert of(Loading, told)[-1].done < of(Loading, told)[-1].total


def test_a_download_is_told_by_bytes_and_closing_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    has_ended = threading.Event()

    def download(model: str, *, report: Callable[[int, int], None]) -> Path:
        try:
            for _ in range(1000):
                report(5, 10)
                has_ended.wait(0.01)
        finally:
            has_ended.set()
        raise AssertionError("nobody ended it")

    monkeypatch.setattr("mlx_mistral.live.model.resolve", download)
    desk = Desk()
    desk.engine.submit(Load(model="far/away"))
    wanted = Loading(model="far/away", stage="downloading", done=5, total=10)
    desk.until(lambda event: event == wanted)
    desk.engine.close()
    assert has_ended.is_set()
    failed = desk.until(lambda event: isinstance(event, LoadFailed))[-1]
    assert failed == LoadFailed(model="far/away", error=CLOSING)


def test_a_download_that_is_stopped_leaves_the_model_that_is_there(
    monkeypatch: pytest.MonkeyPatch, desk: Desk
) -> None:
    def download(model: str, *, report: Callable[[int, int], None]) -> Path:
        while True:
            report(5, 10)

    desk.do(DEMO)
    with monkeypatch.context() as patch:
        patch.setattr("mlx_mistral.live.model.resolve", download)
        patch.setattr(desk, "on_event", lambda event: desk.engine.stop_loading())
        *_, failed = desk.do(Load(model="far/away"))
    assert failed == LoadFailed(model="far/away", error=STOPPED)
    *_, loaded = desk.until(lambda event: isinstance(event, Loaded))
    assert loaded.facts.name == "demo"
    assert isinstance(desk.do(asked(HELLO, id=9))[-1], Finished)


def test_a_loading_that_is_stopped_leaves_no_model_and_the_next_one_loads(desk: Desk) -> None:
    desk.on_event = lambda event: (
        desk.engine.stop_loading() if isinstance(event, Loading) and event.done else None
    )
    assert desk.do(DEMO)[-1] == LoadFailed(model="demo", error=STOPPED)
    desk.on_event = lambda event: None
    assert desk.do(asked(HELLO, id=9)) == [Failed(id=9, error=NO_MODEL)]
    assert isinstance(desk.do(DEMO)[-1], Loaded)


def test_closing_does_not_wait_for_a_hub_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_for, goes_on = threading.Event(), threading.Event()

    def download(model: str, *, report: Callable[[int, int], None]) -> Path:
        asked_for.set()
        goes_on.wait(60)
        raise OSError("the connection is gone")

    monkeypatch.setattr("mlx_mistral.live.model.resolve", download)
    monkeypatch.setattr("mlx_mistral.live.engine.CLOSE_SECONDS", 0.01)
    desk = Desk()
    desk.engine.submit(Load(model="far/away"))
    assert asked_for.wait(60)
    desk.engine.close()
    goes_on.set()
    failed = desk.until(lambda event: isinstance(event, LoadFailed))[-1]
    assert "the connection is gone" in failed.error  # type: ignore[union-attr]


def test_closing_before_the_start_is_no_error() -> None:
    LiveEngine().close()


def test_a_program_that_closes_its_engine_ends_well() -> None:
    program = """
import queue
from mlx_mistral.live.commands import Load, Message, Reply, Settings
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import Finished
told = queue.Queue()
engine = LiveEngine()
engine.start(told.put)
engine.submit(Load(model="demo"))
engine.submit(Reply(id=1, messages=(Message(role="user", content="Hi"),),
                    settings=Settings(max_tokens=2)))
while not isinstance(told.get(timeout=60), Finished):
    pass
engine.close()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_screen_imports_loads_no_mlx() -> None:
    program = (
        "import sys\n"
        "from mlx_mistral.live import commands, events, protocol\n"
        "sys.exit('mlx' in sys.modules or 'mlx.core' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
