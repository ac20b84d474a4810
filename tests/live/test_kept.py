"""A conversation that is opened again is not read again, and says what it would have said."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from tiny import FAMILIES, tiny_config, tiny_model

from mlx_mistral.errors import CacheError
from mlx_mistral.live.commands import Load, Message, Reply, Settings
from mlx_mistral.live.engine import LiveEngine
from mlx_mistral.live.events import Event, Finished, Noted, Reading
from mlx_mistral.live.kept import KeptReading
from mlx_mistral.live.model import LiveModel
from mlx_mistral.live.reply import ReplyMaker, Stopped
from mlx_mistral.live.watcher import Watcher
from mlx_mistral.prompt_cache import PromptCacheStore
from tests.live.live_models import KINDS, Desk, asked, assistant, live, make, of, text_of, user

LONG = "Where is the station? I have lost my way, and the town is large. " * 4
MODELS = {
    kind: tiny_model(tiny_config(**FAMILIES[family], vocab_size=266, head_dim=32))
    for kind, family in KINDS.items()
}


def store_in(folder: Path, **options: Any) -> PromptCacheStore:
    return PromptCacheStore(folder / "caches", **{"limit_bytes": 1 << 30, **options})


def desk(store: PromptCacheStore | None, idle_seconds: float = 60.0) -> Desk:
    return Desk(LiveEngine(caches=store, idle_seconds=idle_seconds, worth_seconds=0.0))


def turn(messages: Sequence[Message], **fields: Any) -> Reply:
    return Reply(id=1, messages=tuple(messages), settings=Settings(max_tokens=20), **fields)


def reply_to(told: list[Event]) -> Message:
    end = of(Finished, told)[-1]
    return Message(role="assistant", content=text_of(told), token_ids=end.token_ids)


def test_a_conversation_opened_again_goes_on_as_if_it_had_stayed_open(tmp_path: Path) -> None:
    stayed, first = desk(None), desk(store_in(tmp_path))
    for each in (stayed, first):
        each.do(Load(model="demo"))
    messages = [user(LONG)]
    told = first.do(turn(messages))
    assert reply_to(stayed.do(turn(messages))) == reply_to(told)
    first.engine.close()
    read = of(Finished, told)[-1].progress.cache_tokens
    messages += [reply_to(told), user("And the market?")]
    again = desk(store_in(tmp_path))
    again.do(Load(model="demo"))
    told = again.do(turn(messages))
    assert of(Reading, told)[-1].reused == read
    assert reply_to(told) == reply_to(stayed.do(turn(messages)))
    for each in (stayed, again):
        each.engine.close()


def test_a_model_that_made_room_for_another_finds_its_reading_again(tmp_path: Path) -> None:
    here = desk(store_in(tmp_path))
    here.do(Load(model="demo"))
    told = here.do(turn([user(LONG)]))
    here.do(Load(model=str(tmp_path / "nothing")))
    here.do(Load(model="demo"))
    told = here.do(turn([user(LONG), reply_to(told), user("And then?")]))
    assert of(Reading, told)[-1].reused > 60
    here.engine.close()


def test_what_was_read_is_written_once_nothing_is_asked(tmp_path: Path) -> None:
    written = threading.Event()

    class Told(PromptCacheStore):
        def save(self, *args: Any, **options: Any) -> int:
            n = super().save(*args, **options)
            written.set()
            return n

    here = desk(Told(tmp_path / "caches", limit_bytes=1 << 30), idle_seconds=0.0)
    here.do(Load(model="demo"))
    here.do(turn([user(LONG)]))
    assert written.wait(60)
    assert len(store_in(tmp_path).entries()) == 1
    here.engine.close()


class Refusing(PromptCacheStore):
    def save(self, *args: Any, **options: Any) -> int:
        raise CacheError("the disk is full")


def test_a_disk_that_refuses_is_told_once_and_costs_no_reply(tmp_path: Path) -> None:
    here = desk(Refusing(tmp_path / "caches"))
    here.do(Load(model="demo"))
    told = here.do(turn([user(LONG)]))
    told += here.do(turn([user("Something else")]))
    told += here.do(turn([user("Another thing")]))
    assert [event.reason for event in of(Finished, told)]
    assert [event.line for event in of(Noted, told)] == [
        "the disk is full. What is read is not kept on disk"
    ]
    here.engine.close()


@pytest.mark.parametrize("refused", ["save_safetensors", "load"])
def test_a_disk_that_fails_costs_no_word_of_a_reply(
    refused: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full while a cache is written, failing while one is read: one line, and the reply goes on."""

    def fails(*_: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    model, noted = MODELS["full"], list[Event]()
    kept, first = kept_in(tmp_path, noted), live(model)
    if refused == "load":
        kept_make(first, kept, asked(user(LONG)))
        kept.keep(first, go_on=lambda: True, seconds=60.0)
    with monkeypatch.context() as patch:
        patch.setattr(mx, refused, fails)
        target = live(model)
        told = kept_make(target, kept, asked(user(LONG)))
        kept.keep(target, go_on=lambda: True, seconds=60.0)
    assert [one.line.count("No space left on device") for one in of(Noted, noted)] == [1]
    assert text_of(told) == text_of(make(live(model), asked(user(LONG))))


def kept_make(
    target: LiveModel,
    kept: KeptReading,
    command: Reply,
    check: Callable[[], None] = lambda: None,
) -> list[Event]:
    """One reply on this thread, with what is kept."""
    told: list[Event] = []

    def prepare(ids: Sequence[int]) -> None:
        kept.restore(target, ids, check)

    watcher = Watcher(target.model, target.tokenizer)
    ReplyMaker(target, watcher, command, tell=told.append, check=check, prepare=prepare).run()
    return told


def kept_in(folder: Path, told: list[Event] | None = None, **options: Any) -> KeptReading:
    tell = (told if told is not None else []).append
    return KeptReading(store_in(folder, **options), tell, worth_seconds=0.0)


@pytest.mark.parametrize("bits", [None, 4])
@pytest.mark.parametrize("kind", MODELS)
def test_the_same_tokens_with_and_without_the_disk(
    kind: str, bits: int | None, tmp_path: Path
) -> None:
    model, chosen = MODELS[kind], {"settings": {"cache_bits": bits}}
    kept, plain = kept_in(tmp_path), live(model)
    messages: list[Message] = []
    for text in (LONG, "more", "and more " * 9):
        messages.append(user(text))
        opened = live(model)
        told = kept_make(opened, kept, asked(*messages, **chosen))
        expected = make(plain, asked(*messages, **chosen))
        assert text_of(told) == text_of(expected)
        if len(messages) > 1:
            assert of(Reading, told)[-1].reused == of(Reading, expected)[-1].reused > 60
        kept.keep(opened, go_on=lambda: True, seconds=60.0)
        messages.append(reply_to(told))


def test_a_branch_takes_what_it_shares_from_disk(tmp_path: Path) -> None:
    model, kept = MODELS["full"], kept_in(tmp_path)
    first = live(model)
    stem = [user(LONG), assistant("Left."), user("Thank you. " * 9)]
    kept_make(first, kept, asked(*stem))
    kept.keep(first, go_on=lambda: True, seconds=60.0)
    branch = [*stem[:2], user("No, the other one")]
    told = kept_make(live(model), kept, asked(*branch))
    assert of(Reading, told)[-1].reused > len(LONG)
    assert text_of(told) == text_of(make(live(model), asked(*branch)))


def test_damage_on_disk_is_told_and_the_text_is_read(tmp_path: Path) -> None:
    model, noted = MODELS["full"], list[Event]()
    kept, first = kept_in(tmp_path, noted), live(model)
    kept_make(first, kept, asked(user(LONG)))
    kept.keep(first, go_on=lambda: True, seconds=60.0)
    for path in (tmp_path / "caches").glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9] + b"otherwise")
    told = kept_make(live(model), kept, asked(user(LONG)))
    assert "is damaged" in of(Noted, noted)[0].line
    assert of(Reading, told)[-1].reused == 0
    assert text_of(told) == text_of(make(live(model), asked(user(LONG))))


def test_what_memory_holds_as_well_is_not_loaded(tmp_path: Path) -> None:
    target, kept = live(MODELS["full"]), kept_in(tmp_path)
    kept_make(target, kept, asked(user(LONG)))
    kept.keep(target, go_on=lambda: True, seconds=60.0)
    before = target.prefix
    kept_make(target, kept, asked(user(LONG)))
    assert target.prefix is before


def test_a_stop_while_a_cache_is_loaded_ends_the_reply(tmp_path: Path) -> None:
    model, kept = MODELS["full"], kept_in(tmp_path)
    first = live(model)
    kept_make(first, kept, asked(user(LONG)))
    kept.keep(first, go_on=lambda: True, seconds=60.0)
    asked_ = []

    def check() -> None:
        asked_.append(1)
        if len(asked_) == 3:
            raise Stopped

    target = live(model)
    told = kept_make(target, kept, asked(user(LONG)), check)
    assert of(Finished, told)[-1].reason == "stopped"
    assert text_of(kept_make(target, kept, asked(user(LONG)))) == text_of(
        make(live(model), asked(user(LONG)))
    )


def test_what_is_read_in_no_time_is_not_written(tmp_path: Path) -> None:
    target = live(MODELS["full"])
    kept = KeptReading(store_in(tmp_path), [].append, worth_seconds=60.0)
    kept_make(target, kept, asked(user(LONG)))
    kept.keep(target, go_on=lambda: True, seconds=60.0)
    assert not (tmp_path / "caches").exists() or not kept._store.entries()


def test_saving_ends_when_its_time_is_over(tmp_path: Path) -> None:
    target, kept = live(MODELS["full"]), kept_in(tmp_path)
    kept_make(target, kept, asked(user(LONG)))
    kept.keep(target, go_on=lambda: True, seconds=-1.0)
    assert store_in(tmp_path).entries() == []


def test_another_conversation_does_not_lose_what_was_read(tmp_path: Path) -> None:
    here = desk(store_in(tmp_path))
    here.do(Load(model="demo"))
    told = here.do(turn([user(LONG)]))
    here.do(turn([user("What is the weather like? " * 9)]))
    back = here.do(turn([user(LONG), reply_to(told), user("And then?")]))
    assert of(Reading, back)[-1].reused == of(Finished, told)[-1].progress.cache_tokens
    here.engine.close()


@pytest.mark.parametrize("kind", ["windowed", "mixed"])
def test_what_conversations_begin_with_is_found_though_all_have_wrapped(
    kind: str, tmp_path: Path
) -> None:
    windows = {"windowed": {"sliding_window": 120}, "mixed": {"_sliding_window": [None, 120]}}
    config = {**FAMILIES["mistral"], **windows[kind], "n_layers": 2}
    model = tiny_model(tiny_config(**config, vocab_size=266))
    kept, chosen = kept_in(tmp_path), {"settings": {"system": "Be brief. " * 9}}
    first = live(model)
    kept_make(first, kept, asked(user(LONG), **chosen))
    kept.keep(first, go_on=lambda: True, seconds=60.0)
    other = [user("Another question. " * 9)]
    told = kept_make(live(model), kept, asked(*other, **chosen))
    assert of(Reading, told)[-1].reused == len("Be brief. " * 9) + 4
    assert text_of(told) == text_of(make(live(model), asked(*other, **chosen)))
