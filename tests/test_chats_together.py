"""Chats with one model: what they begin with is read once, held once, and changes no reply."""

from __future__ import annotations

import gc
import random
import threading

import mlx.core as mx
import pytest
from tiny import FAMILIES, LetterTokenizer, tiny_config, tiny_model

from mlx_mistral.chat import Chat
from mlx_mistral.completion import generate
from mlx_mistral.model import Model
from mlx_mistral.model.transformer import Decoder

TOKENIZER = LetterTokenizer()
SYSTEM = "You are a guide in a large town and answer every question about it in brief. " * 4
KINDS = ["mistral", "mixtral-window", "ministral"]


def model_of(family: str) -> Model:
    return tiny_model(tiny_config(**FAMILIES[family], vocab_size=266, head_dim=32))


def make_chat(model: Model, **options: object) -> Chat:
    return Chat(model, TOKENIZER, **{"max_tokens": 6, "system": SYSTEM, **options})  # type: ignore[arg-type]


def reply(chat: Chat, text: str) -> str:
    return "".join(r.text for r in chat.send(text))


def asked(chat: Chat, text: str) -> list[int]:
    chat.messages.append({"role": "user", "content": text})
    ids = chat._prompt()
    chat.messages.pop()
    return ids


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each pass over a prompt has read."""
    counts: list[int] = []
    plain = Decoder.__call__

    def counting(self: Decoder, tokens: mx.array, *rest: object, **named: object) -> object:
        if tokens.ndim == 2 and tokens.shape[1] > 1:
            counts.append(tokens.shape[1])
        return plain(self, tokens, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Decoder, "__call__", counting)
    return counts


@pytest.mark.parametrize("family", KINDS)
def test_a_system_prompt_is_read_once_for_all_chats(family: str, fed: list[int]) -> None:
    model = model_of(family)
    chats = [make_chat(model) for _ in range(4)]
    questions = ["Where is the station?", "And the market?", "What is there to see?", "Why?"]
    for chat, question in zip(chats, questions, strict=True):
        reply(chat, question)
    assert sum(fed) <= len(SYSTEM) + sum(len(one) + 6 for one in questions)
    fed.clear()
    for chat in chats:
        reply(chat, "More")
    assert sum(fed) <= 4 * (len("More") + 2 * 6)


@pytest.mark.parametrize("family", KINDS)
def test_a_chat_that_is_closed_leaves_its_beginning_to_the_next(
    family: str, fed: list[int]
) -> None:
    model = model_of(family)
    for question in ("One", "Two", "Three"):
        reply(make_chat(model), question)
    assert sum(fed) <= len(SYSTEM) + 3 * (6 + 5)


def test_chats_at_rest_hold_their_beginning_once() -> None:
    model = model_of("mistral")
    n = 12
    first = make_chat(model)
    gc.collect()
    before = mx.get_active_memory()
    reply(first, "Where?")
    one = mx.get_active_memory() - before
    others = [make_chat(model) for _ in range(n - 1)]
    for chat in others:
        reply(chat, "When?")
    gc.collect()
    assert mx.get_active_memory() - before < 1.5 * one
    assert model.prefixes.nbytes <= mx.get_active_memory() - before + 4096


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_what_is_shared_changes_no_reply(family: str, seed: int) -> None:
    model, dice = model_of(family), random.Random(seed)
    chats = [make_chat(model), make_chat(model, kv_bits=8), make_chat(model, system="Other")]
    for _ in range(8):
        chat = dice.choice(chats)
        match dice.choice(["go on", "branch", "new", "edit", "close", "release"]):
            case "branch":
                chats.append(chat := chat.branch())
            case "new":
                chats.append(chat := make_chat(model))
            case "edit" if chat.messages:
                del chat.messages[2 * dice.randrange(len(chat.messages) // 2) :]
            case "close" if len(chats) > 2:
                chats.remove(chat)
            case "release":
                model.prefixes.release()
        ids = asked(chat, text := "".join(dice.choices("abc ", k=dice.randint(1, 90))))
        bits = chat._kv_bits
        expected = generate(model, TOKENIZER, ids, max_tokens=6, kv_bits=bits)  # type: ignore[arg-type]
        assert reply(chat, text) == expected


def test_where_memory_runs_short_chats_at_rest_are_forgotten_first() -> None:
    model, lines = model_of("mistral"), list[str]()
    chats = [make_chat(model, tell=lines.append, system=f"{n}. {SYSTEM}") for n in range(4)]
    alone = [reply(chat, "Where is the station?") for chat in chats]
    for chat in chats:
        chat.clear()
    model.prefixes.release()
    gc.collect()
    weights = mx.get_active_memory()
    reply(chats[0], "Where is the station?")
    model.budget_bytes = mx.get_active_memory() + 3 * (mx.get_active_memory() - weights)
    assert [reply(chat, "Where is the station?") for chat in chats[1:]] == alone[1:]
    assert "chats at rest" in lines[0]
    assert reply(chats[0], "And then?")


def test_chats_may_reply_between_each_others_tokens() -> None:
    model = model_of("mistral")
    chats = [make_chat(model) for _ in range(3)]
    expected = [generate(model, TOKENIZER, asked(one, "Where?"), max_tokens=6) for one in chats]  # type: ignore[arg-type]
    streams = [chat.send("Where?") for chat in chats]
    heard = zip(*streams, strict=True)
    said = ["".join(one.text for one in parts) for parts in zip(*heard, strict=True)]
    assert said == expected
    assert [chat.reused_tokens > len(SYSTEM) for chat in chats] == [False, True, True]


def test_chats_may_reply_in_threads_of_their_own() -> None:
    model = model_of("mistral")
    chats = [make_chat(model) for _ in range(2)]
    said: list[set[str]] = [set(), set()]

    def talk(n: int) -> None:
        for _ in range(4):
            said[n].add(reply(chats[n], "Where?"))
            chats[n].clear()

    threads = [threading.Thread(target=talk, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said[0] == said[1] == {reply(make_chat(model), "Where?")}
