"""The bundled model: its size, and that it does in the runtime what its README reports."""

from random import Random

import mlx.core as mx
import pytest

from mlx_mistral.checkpoint import load_model
from mlx_mistral.config import ModelConfig
from mlx_mistral.demo import held_out, model_path
from mlx_mistral.demo.architecture import CONFIG, WINDOW, model_config
from mlx_mistral.demo.batches import ChatEncoder
from mlx_mistral.demo.evaluate import answer, last_word

SIZE_LIMIT_BYTES = 7_900_000


@pytest.fixture(scope="module")
def model():
    return load_model(model_path(), dtype=mx.float32)


@pytest.fixture(scope="module")
def encoder():
    return ChatEncoder(model_path() / "tokenizer.model.v3")


def share_right(model, encoder, questions):
    replies = answer(model, encoder, questions)
    right = [r in q.turn.accepted for q, r in zip(questions, replies, strict=True)]
    return sum(right) / len(right)


def test_the_bundle_is_small():
    assert sum(f.stat().st_size for f in model_path().iterdir()) <= SIZE_LIMIT_BYTES


def test_the_bundle_is_the_architecture_that_is_documented(model):
    assert model.config == model_config() == ModelConfig.from_hf(CONFIG)


def test_it_answers_questions_in_phrasings_it_has_never_seen(model, encoder):
    questions = list(held_out.topic_questions(encoder, Random("topics"), 1))[::3]
    assert share_right(model, encoder, questions) >= 0.8


def test_it_adds_numbers_it_has_never_added(model, encoder):
    questions = list(held_out.sum_questions(encoder, Random("sums"), 20))
    replies = answer(model, encoder, questions)
    wanted = [last_word(question.turn.reply) for question in questions]
    given = [last_word(reply) for reply in replies]
    assert sum(w == g for w, g in zip(wanted, given, strict=True)) >= 18


@pytest.mark.parametrize(("windows_back", "wanted"), [(0, 0.8), (1.3, 0.7)])
def test_it_recalls_a_fact_from_beyond_its_window(model, encoder, windows_back, wanted):
    rng = Random(f"recall {windows_back}")
    distance = int(windows_back * WINDOW)
    questions = [
        held_out.recall_question(encoder, rng, language, distance) for language in ("en", "fr") * 8
    ]
    assert all((q.distance > WINDOW) == (windows_back > 1) for q in questions)
    assert share_right(model, encoder, questions) >= wanted
