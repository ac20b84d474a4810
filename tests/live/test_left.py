"""Conversations and branches that are left are not read again while memory has room for them."""

from __future__ import annotations

import pytest
from tiny import FAMILIES, tiny_config, tiny_model

from mlx_mistral.live.commands import Message
from mlx_mistral.live.events import Event, Reading
from mlx_mistral.live.left import MAX_LEFT
from mlx_mistral.live.model import LiveModel
from tests.live.live_models import KINDS, asked, assistant, live, make, of, text_of, user

LONG = "Where is the station? I have lost my way, and the town is large. " * 4
MODELS = {
    kind: tiny_model(tiny_config(**FAMILIES[family], vocab_size=266))
    for kind, family in KINDS.items()
}


def turn(target: LiveModel, messages: list[Message], text: str) -> list[Event]:
    """One turn more of a conversation."""
    messages.append(user(text))
    told = make(target, asked(*messages))
    messages.append(assistant(text_of(told)))
    return told


def total(told: list[Event]) -> int:
    """How many tokens were read."""
    return of(Reading, told)[-1].total


@pytest.mark.parametrize("kind", MODELS)
def test_going_back_to_a_conversation_reads_only_what_is_new(kind: str) -> None:
    target, here, there = live(MODELS[kind]), list[Message](), list[Message]()
    turn(target, here, LONG)
    turn(target, there, "Something else. " * 9)
    for text in ("And then?", "Why?"):
        for messages in (here, there):
            held = len(messages[-1].content.encode())
            told = turn(target, messages, text)
            assert total(told) <= 2 * held + len(text) + 12
            expected = make(live(MODELS[kind]), asked(*messages[:-1]))
            assert text_of(told) == text_of(expected)


def test_going_from_branch_to_branch_reads_only_what_is_new() -> None:
    target, stem = live(MODELS["full"]), list[Message]()
    turn(target, stem, LONG)
    branches = {name: [*stem, user(name * 90), assistant(f"So {name}.")] for name in "abc"}
    sizes = []
    for _ in range(2):
        for messages in branches.values():
            told = make(target, asked(*messages, user("Go on")))
            sizes.append(total(told))
            assert text_of(told) == text_of(
                make(live(MODELS["full"]), asked(*messages, user("Go on")))
            )
    assert max(sizes[3:]) < 10 < 90 < min(sizes[:3])
    at_rest = target.shared.nbytes
    target.shared.wake(target.prefix)
    token_bytes = sum(layer.nbytes // layer.capacity for layer in target.prefix.layers)
    assert at_rest <= token_bytes * (len(LONG) + 20 + 3 * 130)


def test_no_more_is_held_than_there_is_memory_for() -> None:
    target = live(MODELS["full"])
    texts = [f"{n}. {LONG}" for n in range(4)]
    make(target, asked(user(texts[0])))
    target._left._limit_bytes = 2 * target.prefix.nbytes
    for text in texts[1:]:
        make(target, asked(user(text)))
    assert len(target._left) == 2
    target._left._limit_bytes = 0
    told = make(target, asked(user(texts[3] + "And?")))
    assert total(told) < len(LONG)
    make(target, asked(user("x" * 90)))
    assert len(target._left) == 0


def test_no_more_texts_are_held_than_are_looked_through_at_once() -> None:
    target = live(MODELS["full"])
    for n in range(MAX_LEFT + 3):
        make(target, asked(user(f"{n}. {LONG[:80]}"), max_tokens=1))
    assert len(target._left) == MAX_LEFT
