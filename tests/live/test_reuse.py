"""Edited, regenerated and branched conversations cost what comes after the change."""

from __future__ import annotations

import random
import time
from itertools import takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.cache.sharing import MIN_TOKENS
from mlx_mistral.completion import generate
from mlx_mistral.errors import CacheError, ContextError
from mlx_mistral.live.commands import Message
from mlx_mistral.live.events import Finished, Piece, Reading
from mlx_mistral.live.model import LiveModel
from mlx_mistral.live.pace import Pace
from mlx_mistral.live.reply import Stopped
from mlx_mistral.model.transformer import Decoder
from tests.live.live_models import (
    KINDS,
    Letters,
    asked,
    assistant,
    ids_of,
    live,
    make,
    of,
    text_of,
    tiny,
    user,
)

MODELS = {kind: tiny(kind) for kind in KINDS}


def fresh(target: LiveModel, ids: list[int], max_tokens: int = 6) -> str:
    """The reply of a model that has read nothing before."""
    return generate(target.model, Letters(), ids, max_tokens=max_tokens)  # type: ignore[arg-type]


def changed(messages: list[Message], dice: random.Random) -> list[Message]:
    """A conversation after what people do to one; it ends with the user's message."""
    n_turns = len(messages) // 2
    text = "".join(dice.choice("abcdef ") for _ in range(dice.randint(1, 30)))
    match dice.choice(["go on", "edit", "regenerate", "edit reply", "restart"]):
        case "edit" if n_turns:
            return [*messages[: 2 * dice.randrange(n_turns)], user(text)]
        case "regenerate" if n_turns:
            return messages[: 2 * dice.randrange(n_turns) + 1]
        case "edit reply" if n_turns:
            place = 2 * dice.randrange(n_turns) + 1
            return [*messages[:place], assistant(text), user("then")]
        case "restart":
            return [user(text)]
    return [*messages, user(text)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=4, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_edits_and_branches_answer_like_a_fresh_read(kind: str, seed: int) -> None:
    target, dice = live(MODELS[kind]), random.Random(seed)
    branches: list[list[Message]] = [[]]
    held: list[int] = []
    for _ in range(9):
        messages = changed(dice.choice(branches), dice)
        ids = ids_of(messages)
        told = make(target, asked(*messages))
        assert text_of(told) == fresh(target, ids)
        last = of(Reading, told)[-1]
        progress = of(Finished, told)[-1].progress
        assert last.done == last.total == len(ids) - last.reused
        assert (progress.prompt_tokens, progress.reused_tokens) == (len(ids), last.reused)
        alike = sum(1 for _ in takewhile(lambda p: p[0] == p[1], zip(held, ids, strict=False)))
        if kind == "full":
            is_left = len(held) - alike >= MIN_TOKENS
            assert is_left or last.reused >= min(alike, len(ids) - 1)
        held = [*ids, *(piece.token for piece in of(Piece, told))][: progress.cache_tokens]
        branches.append([*messages, assistant(text_of(told))])


@pytest.mark.parametrize("kind", KINDS)
def test_the_figures_are_what_the_model_computed(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, computed = live(MODELS[kind]), []
    plain = Decoder.__call__

    def counting(self: Decoder, tokens: object, *rest: object, **named: object) -> object:
        computed.append(tokens.shape[1])  # type: ignore[attr-defined]
        return plain(self, tokens, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "__call__", counting)
    first = make(target, asked(user("a first message, quite a long one")))
    for text in ("two", "another second message"):
        computed.clear()
        told = make(
            target,
            asked(user("a first message, quite a long one"), assistant(text_of(first)), user(text)),
        )
        reading = of(Reading, told)[-1]
        # Decoding takes a token a pass, and may not come by here at all.
        assert sum(n for n in computed if n > 1) == reading.total
        assert reading.reused > 0


@pytest.mark.parametrize("kind", ["windowed", "mixed"])
def test_past_a_wrap_a_recent_edit_reads_from_the_nearest_place(kind: str) -> None:
    target, messages = live(MODELS[kind]), []
    for turn in range(8):
        messages.append(user(f"message {turn}, longer than the window"))
        messages.append(assistant(text_of(make(target, asked(*messages)))))
    for back in (1, 2):
        edited = [*messages[: -2 * back], user("Edited")]
        before = len(ids_of(messages[: -2 * back - 1]))
        told = make(target, asked(*edited))
        assert of(Reading, told)[-1].reused >= before
        assert text_of(told) == fresh(target, ids_of(edited))


def test_switching_between_branches_of_a_windowed_model_reads_only_what_is_new() -> None:
    target = live(MODELS["windowed"])
    stem = [user("a question that is longer than any window")]
    replies = {}
    for name in ("one", "two"):
        replies[name] = [*stem, assistant(f"an answer {name} of some length"), user(name)]
        make(target, asked(*replies[name]))
    told = make(target, asked(*replies["one"]))
    assert of(Reading, told)[-1].total == 1
    assert text_of(told) == fresh(target, ids_of(replies["one"]))


def test_a_long_conversation_read_at_once_can_be_edited_near_its_end() -> None:
    target = live(MODELS["windowed"])
    target.pace = Pace(time.perf_counter, 32)
    messages = [user("word " * 60), assistant("yes"), user("more " * 5)]
    make(target, asked(*messages))
    told = make(target, asked(*messages[:2], user("less")))
    change = len(ids_of(messages[:2]))
    assert change - 32 <= of(Reading, told)[-1].reused <= change + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [1, 7, 12, 30])
def test_a_stopped_reply_keeps_what_it_read_and_said(kind: str, after: int) -> None:
    target, checks = live(MODELS[kind]), 0

    def check() -> None:
        nonlocal checks
        checks += 1
        if checks == after:
            raise Stopped

    message = user("A message longer than any window here")
    told = make(target, asked(message, max_tokens=40), check=check)
    assert of(Finished, told)[-1].reason == "stopped"
    said = text_of(told)
    messages = [message, assistant(said), user("Go on")]
    again = make(target, asked(*messages))
    assert text_of(again) == fresh(target, ids_of(messages))
    if kind == "full" and said:
        assert of(Reading, again)[-1].reused >= len(ids_of([message]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_that_is_begun_goes_on_as_if_the_model_had_chosen_it(kind: str) -> None:
    target, message = live(MODELS[kind]), user("Hello, and a few more words")
    whole = [piece.token for piece in of(Piece, make(target, asked(message, max_tokens=8)))]
    told = make(target, asked(message, max_tokens=8, begun=tuple(whole[:3])))
    assert [piece.token for piece in of(Piece, told)] == whole
    begun = (80, 0xC3 + 10, 0xA9 + 10)
    other = make(target, asked(message, max_tokens=8, begun=begun))
    ids = [*ids_of([message]), *begun]
    assert [piece.text for piece in of(Piece, other)][:3] == ["F", "", "é"]
    assert text_of(other) == "Fé" + fresh(target, ids, max_tokens=5)
    assert of(Reading, other)[-1].reused == len(ids_of([message])) or kind != "full"


def test_a_reply_that_begins_with_its_end_is_over() -> None:
    told = make(live(MODELS["full"]), asked(user("x"), begun=(80, 2, 80)))
    assert [piece.token for piece in of(Piece, told)] == [80, 2]
    assert of(Finished, told)[-1].reason == "stop"


def test_what_does_not_fit_the_context_says_what_to_do_and_keeps_the_cache() -> None:
    target = live(MODELS["full"], context=40)
    make(target, asked(user("short")))
    with pytest.raises(ContextError, match="holds 40 and must leave room"):
        make(target, asked(user("much longer than forty tokens, which is all there is")))
    assert of(Reading, make(target, asked(user("short"))))[-1].total == 1


def test_a_cache_of_other_bits_is_refused_and_the_one_that_is_there_stays() -> None:
    target = live(MODELS["full"])
    make(target, asked(user("short")))
    with pytest.raises(CacheError):
        make(target, asked(user("short"), settings={"cache_bits": 3}))
    assert of(Reading, make(target, asked(user("short"))))[-1].total == 1


def test_a_reply_told_whole_is_reused_whole() -> None:
    """Bytes of letters that were never whole: their text, read again, is other tokens."""
    target, question = live(MODELS["full"]), user("A question that has some length")
    broken = (0xC3 + 10, 0x28 + 10, 0xFF + 10)
    told = make(target, asked(question, begun=broken, max_tokens=9))
    end = of(Finished, told)[-1]
    assert end.token_ids[:3] == broken
    said = "".join(piece.text for piece in of(Piece, told))
    for ids, reused in ((end.token_ids, True), ((), False)):
        answer = Message(role="assistant", content=said, token_ids=ids)
        again = make(target, asked(question, answer, user("Go on"), max_tokens=1))
        whole = of(Reading, again)[-1].reused >= end.progress.cache_tokens
        assert whole == reused
