"""The corpus: seeded, and with nothing of the evaluation in it."""

from itertools import islice
from random import Random

import pytest

from mlx_mistral.demo import corpus
from mlx_mistral.demo.phrasebook import LANGUAGES, normalized, read, topic_phrasings


def training_turns(chats=1500, turns=20):
    for i in range(chats):
        yield from islice(corpus.chat(Random(f"test {i}")), turns)


@pytest.fixture(scope="module")
def seen():
    """Training questions by kind, as the evaluation would spell them."""
    questions, sums, words = set(), set(), set()
    for turn in training_turns():
        questions.add(normalized(turn.user))
        if turn.kind == "sum":
            sums.add(turn.user)
        if turn.kind == "spell":
            words.add(turn.reply.replace(" ", ""))
    return questions, sums, words


def test_the_same_seed_gives_the_same_chat():
    first, second = (list(islice(corpus.chat(Random("a seed")), 40)) for _ in range(2))
    assert first == second
    assert first != list(islice(corpus.chat(Random("another")), 40))


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_held_out_question_appears_in_training(seen, language):
    rng = Random(7)
    for topic in corpus.topics():
        for _ in range(30):
            turn = corpus.topic_turn(rng, language, topic, held_out=True)
            assert normalized(turn.user) not in seen[0]
    for slot in (*corpus.SLOTS, "all"):
        for _ in range(30):
            facts = corpus.draw_facts(rng, language, 5)
            turn = corpus.recall_turn(rng, language, slot, facts, held_out=True)
            assert normalized(turn.user) not in seen[0]
    for _ in range(300):
        turn = corpus.unknown_turn(rng, language, held_out=True)
        assert normalized(turn.user) not in seen[0]


def test_no_held_out_sum_appears_in_training(seen):
    rng = Random(7)
    held_out = corpus.sum_pairs(held_out=True)
    assert 900 < len(held_out) < 1100
    for language in LANGUAGES:
        frames = read("skills", language)["sum"].phrases["ask"]
        for pair in rng.sample(held_out, 200):
            asked = {f.replace("{a}", str(pair[0])).replace("{b}", str(pair[1])) for f in frames}
            assert not asked & seen[1]


def test_no_held_out_word_appears_in_training(seen):
    rng = Random(7)
    words = {corpus.word(rng, lang, held_out=True) for lang in LANGUAGES for _ in range(500)}
    assert not words & seen[2]


@pytest.mark.parametrize("topic", corpus.topics())
def test_every_topic_exists_in_both_languages_and_is_held_out_in_part(topic):
    for language in LANGUAGES:
        assert len(topic_phrasings(language, topic)) >= 13
        assert len(read("topics", language)[topic].answers) == 2
        turns = [corpus.topic_turn(Random(3), language, topic, held_out=h) for h in (True, False)]
        assert normalized(turns[0].user) != normalized(turns[1].user)


def test_worked_sums_are_right():
    assert corpus.sum_reply(37, 45, "en") == "7+5=12, 3+4+1=8, so 82"
    assert corpus.sum_reply(5, 3, "fr") == "5+3=8, donc 8"
    for a, b in corpus.sum_pairs(held_out=True):
        assert corpus.sum_reply(a, b, "en").split()[-1] == str(a + b)


def test_a_recalled_fact_was_told_before_and_has_not_changed():
    for i in range(50):
        told = set()
        for turn in islice(corpus.chat(Random(i)), 30):
            if turn.kind == "recall":
                assert set(turn.values) <= told
            told |= set(turn.values)
