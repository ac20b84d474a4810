"""Questions that training never asked, each behind some turns of chat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from mlx_mistral.demo import corpus
from mlx_mistral.demo.architecture import WINDOW
from mlx_mistral.demo.batches import BOS, ChatEncoder, find
from mlx_mistral.demo.phrasebook import LANGUAGES, has_held_out, topic_phrasings

WINDOWS_BACK = 10


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out turn after some history. `distance`: tokens back to the fact, if any."""

    prompt: list[int]
    turn: corpus.Turn
    distance: int = 0


def questions(encoder: ChatEncoder, *, seed: int, scale: int) -> list[Question]:
    """The whole evaluation, `scale` times a handful."""
    rng = Random(f"evaluation {seed}")
    return [
        *topic_questions(encoder, rng, scale),
        *sum_questions(encoder, rng, 40 * scale),
        *spell_questions(encoder, rng, 20 * scale),
        *repeat_questions(encoder, rng, 12 * scale),
        *recall_questions(encoder, rng, 8 * scale),
        *untold_questions(encoder, rng, 4 * scale),
    ]


def _history(encoder: ChatEncoder, turns: Sequence[corpus.Turn]) -> list[int]:
    ids = [BOS]
    for turn in turns:
        ids += encoder.prompt(turn) + encoder.reply(turn)
    return ids


def _after_some_turns(encoder: ChatEncoder, rng: Random, turn: corpus.Turn) -> Question:
    """The turn as the first of a chat, or behind up to six turns of a training chat."""
    n = rng.choice((0, 0, 0, 1, 2, 3, 4, 5, 6))
    before = _history(encoder, list(islice(corpus.chat(rng), n)))
    return Question(before + encoder.prompt(turn), turn)


def topic_questions(encoder: ChatEncoder, rng: Random, each: int) -> Iterator[Question]:
    """Held-out phrasings of every topic that has some, and questions beyond its knowledge."""
    for language in LANGUAGES:
        for _ in range(each):
            for topic in corpus.topics():
                if has_held_out(language, topic_phrasings(language, topic)):
                    turn = corpus.topic_turn(rng, language, topic, held_out=True)
                    yield _after_some_turns(encoder, rng, turn)
            turn = corpus.unknown_turn(rng, language, held_out=True)
            yield _after_some_turns(encoder, rng, turn)


def sum_questions(encoder: ChatEncoder, rng: Random, n: int) -> Iterator[Question]:
    """Sums whose ordered pair of terms was held out."""
    for i, pair in enumerate(rng.sample(corpus.sum_pairs(held_out=True), n)):
        turn = corpus.sum_turn(rng, LANGUAGES[i % 2], pair)
        yield _after_some_turns(encoder, rng, turn)


def spell_questions(encoder: ChatEncoder, rng: Random, n: int) -> Iterator[Question]:
    """Held-out words: one half invented, the other mostly so."""
    for i in range(n):
        language = LANGUAGES[i % 2]
        text = corpus.word(rng, language, held_out=True, invented=i % 4 < 2)
        yield _after_some_turns(encoder, rng, corpus.spell_turn(rng, language, text))


def repeat_questions(encoder: ChatEncoder, rng: Random, n: int) -> Iterator[Question]:
    """One to three held-out invented words to say again."""
    known = corpus.known_values()
    for i in range(n):
        language = LANGUAGES[i % 2]
        words: list[str] = []
        while len(words) < 1 + i % 3:
            word = corpus.word(rng, language, held_out=True, invented=True)
            words += [] if word in known else [word]
        yield _after_some_turns(encoder, rng, corpus.repeat_turn(rng, language, " ".join(words)))


def recall_questions(encoder: ChatEncoder, rng: Random, each: int) -> Iterator[Question]:
    """As many for each window's width of distance."""
    for windows in range(WINDOWS_BACK):
        for i in range(each):
            wanted = rng.randint(max(20, windows * WINDOW + 1), windows * WINDOW + WINDOW // 2)
            yield recall_question(encoder, rng, LANGUAGES[i % 2], wanted)


def recall_question(encoder: ChatEncoder, rng: Random, language: str, wanted: int) -> Question:
    """A fact asked back about `wanted` tokens later, in a held-out phrasing.

    The distance counts from the last mention of the value to the token of the reply that
    repeats it: up to W tokens back it is seen directly.
    """
    facts = corpus.draw_facts(rng, language, rng.randint(2, 5))
    slot = rng.choice(list(facts))
    turn = corpus.recall_turn(rng, language, slot, facts, held_out=True)
    others = [s for s in corpus.SLOTS if s not in facts]
    ids = _history(encoder, [corpus.tell_turn(rng, language, facts)])
    value, ending = encoder.value_ids(facts[slot]), encoder.prompt(turn)
    source = find(ids, value)
    tail = len(ending) + find(encoder.reply(turn), value) - source
    while len(ids) + tail < wanted:
        filler = corpus.filler_turn(rng, language, others)
        more = encoder.prompt(filler) + encoder.reply(filler)
        if find(more, value) < 0:
            ids += more
    return Question(ids + ending, turn, len(ids) + tail)


def untold_questions(encoder: ChatEncoder, rng: Random, n: int) -> Iterator[Question]:
    """Facts asked back that were never told, in a chat where others were."""
    for i in range(n):
        language = LANGUAGES[i % 2]
        facts = corpus.draw_facts(rng, language, rng.randint(0, 3))
        told = [corpus.tell_turn(rng, language, facts)] if facts else []
        slot = rng.choice([s for s in corpus.SLOTS if s not in facts])
        turn = corpus.recall_turn(rng, language, slot, {}, held_out=True)
        yield Question(_history(encoder, told) + encoder.prompt(turn), turn)
