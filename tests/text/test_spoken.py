"""Replies go back in the tokens that they were made of, where those say the same text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.demo import model_path
from mlx_mistral.live.commands import Message
from mlx_mistral.live.thinking import to_chat
from mlx_mistral.text import load_tokenizer
from mlx_mistral.text.spoken import Spoken
from mlx_mistral.text.thinking import ReplyStream
from tests.live.live_models import Letters, user

DEMO = load_tokenizer(model_path())
LETTERS = [i for i in range(3, DEMO.vocab_size) if not DEMO.is_control(i)]


def encode(messages: Sequence[Message]) -> list[int]:
    return DEMO.encode_chat(to_chat(messages, DEMO))


def text_of_ids(ids: Sequence[int]) -> str:
    stream = ReplyStream(DEMO)
    return "".join(stream.add(one)[0] for one in ids) + stream.finish()


def given_back(messages: Sequence[Message]) -> list[int]:
    return Spoken(DEMO)(encode(messages), messages, encode)


def reply(ids: Sequence[int]) -> Message:
    return Message(role="assistant", content=text_of_ids(ids), token_ids=tuple(ids))


REPLIES = st.lists(
    st.lists(st.sampled_from(LETTERS), min_size=1, max_size=12), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(REPLIES, st.text(st.characters(categories=("L", "Zs")), max_size=9))
def test_any_tokens_of_replies_come_back_in_their_places(
    replies: list[list[int]], question: str
) -> None:
    """The prompt is what was read before each reply, the reply, its end, and so on."""
    messages: list[Message] = []
    for ids in replies:
        messages.append(user(question + "?"))
        if not text_of_ids(ids).strip():
            ids = [*ids, *DEMO.encode("a")]
        before = given_back(messages)
        messages.append(reply(ids))
        after = given_back([*messages, user("b")])
        assert after[: len(before) + len(ids) + 1] == [*before, *ids, *DEMO.eos_ids]


def test_the_user_may_say_what_the_model_said() -> None:
    ids = [LETTERS[40], LETTERS[41], *DEMO.encode("a")]
    same = text_of_ids(ids)
    messages = [user(same), reply(ids), user(same)]
    plain = encode(messages)
    got = given_back(messages)
    end = plain.index(next(iter(DEMO.eos_ids)))
    assert got[got.index(next(iter(DEMO.eos_ids))) :] == plain[end:]
    assert got[: len(encode(messages[:1]))] == encode(messages[:1])


@pytest.mark.parametrize(
    "ids",
    [
        (DEMO.vocab_size,),
        (DEMO.bos_id, LETTERS[5]),
        (*DEMO.eos_ids, LETTERS[5]),
        (DEMO.control_id("[INST]") or 3, LETTERS[5]),
    ],
)
def test_ids_that_are_no_text_are_left_out(ids: tuple[int, ...]) -> None:
    content = text_of_ids([LETTERS[5]])
    messages = [
        user("x"),
        Message(role="assistant", content=content, token_ids=ids),
        user("y"),
    ]
    assert given_back(messages) == encode(messages)


def test_ids_of_another_text_are_left_out() -> None:
    other = Message(role="assistant", content="edited", token_ids=tuple(DEMO.encode("first")))
    messages = [user("x"), other, user("y")]
    assert given_back(messages) == encode(messages)


class Endless(Letters):
    """A format without an end after replies."""

    def encode_chat(self, messages: list[dict[str, Any]], tools: object = None) -> list[int]:
        return [one for one in super().encode_chat(messages, tools) if one != 2]


def test_a_format_that_does_not_end_replies_is_left_as_it_is() -> None:
    tokenizer: Any = Endless()
    said = Message(role="assistant", content="ab", token_ids=(107, 108))
    ids = [1, 3, 130, 4, 107, 108]
    assert Spoken(tokenizer)(ids, [user("x"), said], tokenizer.encode_chat) == ids
