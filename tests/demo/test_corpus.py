"""The corpus: seeded, and with nothing of the evaluation in it."""

from itertools import islice
from random import Random

import pytest

from mlx_mistral.demo import corpus
from mlx_mistral.demo.phrasebook import (
    LANGUAGES,
    Phrasing,
    draw_question,
    has_held_out,
    normalized,
    read,
    topic_phrasings,
)


@pytest.fixture(scope="module")
def training():
    """Every turn of some training chats."""
    return [turn for i in range(800) for turn in islice(corpus.chat(Random(f"test {i}")), 20)]


@pytest.fixture(scope="module")
def training_questions(training):
    return {normalized(turn.user) for turn in training}


def test_the_same_seed_gives_the_same_chat():
    first, second = (list(islice(corpus.chat(Random("a seed")), 40)) for _ in range(2))
    assert first == second
    assert first != list(islice(corpus.chat(Random("another")), 40))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_held_out_question_appears_in_training(training_questions, language):
    rng = Random(7)
    facts = corpus.draw_facts(rng, language, 5)
    for _ in range(10):
        held_out = [
            corpus.topic_turn(rng, language, topic, held_out=True)
            for topic in corpus.topics()
            if has_held_out(language, topic_phrasings(language, topic))
        ]
        held_out += [
            corpus.recall_turn(rng, language, slot, facts, held_out=True)
            for slot in (*corpus.SLOTS, "all")
        ]
        held_out += [corpus.unknown_turn(rng, language, held_out=True) for _ in range(10)]
        assert not {normalized(turn.user) for turn in held_out} & training_questions


def test_no_held_out_sum_appears_in_training(training):
    held_out = corpus.sum_pairs(held_out=True)
    assert 900 < len(held_out) < 1100
    asked = {turn.user for turn in training if turn.kind == "sum"}
    for language in LANGUAGES:
        for frame in read("skills", language)["sum"].phrases["ask"]:
            for a, b in held_out[::5]:
                assert frame.replace("{a}", str(a)).replace("{b}", str(b)) not in asked


def test_no_held_out_word_appears_in_training(training):
    rng = Random(7)
    words = {corpus.word(rng, lang, held_out=True) for lang in LANGUAGES for _ in range(300)}
    assert not words & {t.reply.replace(" ", "") for t in training if t.kind == "spell"}
    repeated = {word for t in training if t.kind == "repeat" for word in t.reply.split()}
    assert not words & repeated - set(corpus.known_values())


def test_asking_for_a_held_out_phrasing_where_there_is_none_is_an_error():
    never = Phrasing("{x}", subject="hello", wrapped=False)
    assert not has_held_out("en", (never,))
    with pytest.raises(ValueError, match="hello"):
        draw_question(Random(0), "en", (never,), held_out=True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_topic_has_phrasings_and_two_answers(language):
    assert set(read("topics", "en")) == set(read("topics", "fr"))
    for topic in corpus.topics():
        assert len(topic_phrasings(language, topic)) >= 13
        assert len(read("topics", language)[topic].answers) == 2


def test_worked_sums_are_right():
    assert corpus.sum_reply(37, 45, "en") == "7+5=12, 3+4+1=8, so 82"
    assert corpus.sum_reply(5, 3, "fr") == "5+3=8, donc 8"
    for a, b in corpus.sum_pairs(held_out=True):
        *steps, last = corpus.sum_reply(a, b, "en").split(", ")
        assert last == f"so {a + b}"
        for step in steps:
            terms, total = step.split("=")
            assert sum(map(int, terms.split("+"))) == int(total)


def test_a_recalled_fact_was_told_before_and_has_not_changed():
    for i in range(50):
        told = dict[str, str]()
        for turn in islice(corpus.chat(Random(i)), 30):
            now = dict(zip(turn.slots, turn.values, strict=False))
            if turn.kind == "tell":
                told |= now
            assert now.items() <= told.items()
