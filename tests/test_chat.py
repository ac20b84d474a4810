"""A chat answers like a fresh read of the conversation and computes only what is new."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import mlx.core as mx
import pytest
from tiny import FAMILIES, LetterTokenizer, tiny_config, tiny_model

from mlx_mistral.chat import Chat
from mlx_mistral.completion import GenerationResponse, generate
from mlx_mistral.errors import CacheError, ContextError, MlxMistralError
from mlx_mistral.model import Model

TOKENIZER = LetterTokenizer()
KINDS = ["mistral", "mixtral-window", "ministral"]


def model_of(family: str) -> Model:
    return tiny_model(tiny_config(**FAMILIES[family], vocab_size=266))


def make_chat(model: Model, **options: object) -> Chat:
    return Chat(model, TOKENIZER, **{"max_tokens": 6, **options})  # type: ignore[arg-type]


MADE: dict[str, list[int]] = {}
"""Replies that are nothing but text: the tokens that they were made of."""


def reply(chat: Chat, text: str) -> str:
    return told(chat.send(text))


def told(responses: Iterator[GenerationResponse]) -> str:
    heard = list(responses)
    made = [one.token for one in heard if one.token not in TOKENIZER.eos_ids]
    said = "".join(one.text for one in heard)
    if not any(map(TOKENIZER.is_control, made)) and TOKENIZER.decode(made) == said:
        MADE[said] = made
    return said


def ids_of(messages: list[dict[str, str]]) -> list[int]:
    """What a chat reads: replies in the tokens that they were made of."""
    ids = [1]
    for message in messages:
        text = TOKENIZER.encode(message["content"])
        if message["role"] == "assistant":
            ids += [*MADE.get(message["content"], text), 2]
        else:
            ids += [3, *text, 4]
    return ids


def fresh(chat: Chat, messages: list[dict[str, str]], max_tokens: int = 6) -> str:
    """The same conversation read anew."""
    return generate(chat.model, TOKENIZER, ids_of(messages), max_tokens=max_tokens)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", KINDS)
def test_every_turn_equals_a_fresh_read(family: str) -> None:
    chat = make_chat(model_of(family), system="Be brief.")
    for text in ["Hello", "And now?", "Tell me more", "x"]:
        said = [{"role": "system", "content": "Be brief."}, *chat.messages]
        expected = fresh(chat, [*said, {"role": "user", "content": text}])
        assert reply(chat, text) == expected


@pytest.mark.parametrize("family", KINDS)
def test_a_second_turn_reads_only_what_is_new(family: str) -> None:
    chat = make_chat(model_of(family), messages=[])
    text = "A first message that is longer than any window here"
    reply(chat, text)
    reply(chat, "Next")
    assert chat.reused_tokens >= len(TOKENIZER.encode_chat([{"role": "user", "content": text}]))


@pytest.mark.parametrize("family", KINDS)
def test_a_reply_can_be_made_again_without_reading_its_prompt(family: str) -> None:
    chat = make_chat(model_of(family))
    text = "A message longer than any window here"
    first = reply(chat, text)
    prompt = TOKENIZER.encode_chat([{"role": "user", "content": text}])
    chat.messages.clear()
    assert reply(chat, text) == first
    assert chat.reused_tokens == len(prompt) - 1


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("keep", [0, 2, 3])
def test_an_edited_conversation_equals_a_fresh_read(family: str, keep: int) -> None:
    chat = make_chat(model_of(family))
    for text in ["One", "Two, a little longer", "Three"]:
        reply(chat, text)
    chat.messages = chat.messages[: keep // 2 * 2]
    if keep == 3:
        chat.messages[1] = {"role": "assistant", "content": "Something else"}
    expected = fresh(chat, [*chat.messages, {"role": "user", "content": "Again"}])
    assert reply(chat, "Again") == expected


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_interrupted_reply_keeps_its_text_and_the_chat_goes_on(family: str, after: int) -> None:
    chat = make_chat(model_of(family), max_tokens=9)
    stream = chat.send("A message longer than any window here")
    kept = told(islice(stream, after))
    stream.close()
    said = chat.messages[1:]
    assert said == ([{"role": "assistant", "content": kept}] if kept else [])
    expected = fresh(chat, [*chat.messages, {"role": "user", "content": "Go on"}], 9)
    assert reply(chat, "Go on") == expected


def test_a_message_that_cannot_be_answered_is_taken_back() -> None:
    chat = make_chat(model_of("mistral"), context=20)
    with pytest.raises(ContextError):
        reply(chat, "much too long for twenty tokens")
    assert chat.messages == []
    assert reply(chat, "ok") == fresh(chat, [{"role": "user", "content": "ok"}])


def test_options_of_a_turn_override_the_chats_own() -> None:
    chat = make_chat(model_of("mistral"))
    assert len(list(chat.send("Hello", max_tokens=2))) == 2
    assert len(list(chat.send("Hello"))) == 6
    with pytest.raises(MlxMistralError, match="top-p"):
        reply(make_chat(model_of("mistral"), top_p=7), "Hello")


def test_clearing_forgets_messages_and_keeps_the_system_prompt() -> None:
    chat = make_chat(model_of("mistral"), system="S")
    first = reply(chat, "Hello")
    chat.clear()
    assert chat.messages == []
    assert reply(chat, "Hello") == first


def test_progress_counts_only_what_is_read() -> None:
    chat, steps = make_chat(model_of("mistral")), []
    reply(chat, "Hello")
    list(chat.send("You", progress=lambda done, total: steps.append((done, total))))
    prompt = len(ids_of(chat.messages[:3]))
    assert steps[-1] == (prompt - chat.reused_tokens,) * 2


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("taken", [1, 4, 6])
def test_drafts_leave_a_chat_as_it_is(family: str, taken: int) -> None:
    model = model_of(family)
    plain, drafting = make_chat(model), make_chat(model, draft_model=model)
    for text in ["Hello", "And now?", "Tell me more"]:
        for chat in (plain, drafting):
            replies = chat.send(text)
            for _ in range(taken):
                next(replies)
            replies.close()
        assert drafting.messages == plain.messages
        assert drafting.cache[0].offset <= len(drafting._prefix.ids)


@pytest.mark.parametrize("family", KINDS)
def test_a_chat_goes_on_from_a_saved_cache(family: str, tmp_path: Path) -> None:
    model, path = model_of(family), tmp_path / "chat.safetensors"
    first = make_chat(model)
    reply(first, "A message that is longer than any window")
    first.save_cache(path)
    again = make_chat(model, messages=first.messages)
    again.load_cache(path)
    assert reply(again, "And now?") == reply(first, "And now?")
    assert again.reused_tokens == first.reused_tokens > 40


def test_a_cache_that_is_not_this_chats_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "chat.safetensors"
    chat = make_chat(model_of("mistral"))
    with pytest.raises(CacheError, match="empty"):
        chat.save_cache(path)
    reply(chat, "Hello")
    chat.save_cache(path)
    for other in (make_chat(model_of("ministral")), make_chat(model_of("mistral"), context=99)):
        with pytest.raises(CacheError):
            other.load_cache(path)
        assert reply(other, "Hello")
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CacheError):
        chat.load_cache(path)


def test_a_reply_whose_text_encodes_otherwise_stays_in_the_cache() -> None:
    """Bytes of letters that were never whole come back as U+FFFD, which is other tokens."""
    chat = make_chat(model_of("mistral"), max_tokens=12)
    said = reply(chat, "A question")
    assert TOKENIZER.encode(said) != MADE[said]
    held = chat.cache[0].offset
    assert held > len(ids_of(chat.messages[:1])) + 9
    reply(chat, "Go on")
    assert chat.reused_tokens == held
    chat.messages[1]["content"] += "!"
    reply(chat, "And now?")
    assert chat.reused_tokens < held


def test_a_full_disk_costs_a_chat_nothing_but_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    chat = make_chat(model_of("mistral"))
    reply(chat, "Hello")
    with monkeypatch.context() as patch:
        patch.setattr(mx, "save_safetensors", full)
        with pytest.raises(CacheError, match="No space left on device"):
            chat.save_cache(tmp_path / "chat.safetensors")
    assert len(chat.messages) == 2
    expected = fresh(chat, [*chat.messages, {"role": "user", "content": "Go on"}])
    assert reply(chat, "Go on") == expected
    assert chat.reused_tokens > 8
