"""The figures against NumPy in float64, and what they owe to probability theory."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import EvaluationError
from mlx_mistral.evaluation import Scores, score, scores

VOCAB = 37


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """In float64. Shapes: (..., vocab)."""
    logits = logits.astype(np.float64)
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def drawn(n: int = 23, spread: float = 3.0, seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=(n, vocab)) * spread).astype(np.float32)


def targets(n: int = 23, vocab: int = VOCAB) -> np.ndarray:
    return np.random.default_rng(9).integers(0, vocab, n)


def scored(logits: np.ndarray, reference: np.ndarray | None = None) -> Scores:
    ids = targets(len(logits), logits.shape[-1])
    other = None if reference is None else mx.array(reference)
    return score(mx.array(logits), mx.array(ids), other)


@pytest.mark.parametrize("elements", [1, 5 * VOCAB, 1 << 23])
def test_every_figure_equals_its_definition(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scores, "CHUNK_ELEMENTS", elements)
    p, q = drawn(seed=1), drawn(seed=2)
    log_p, log_q = log_softmax(p), log_softmax(q)
    nll = -log_p[np.arange(23), targets()]
    kl = (np.exp(log_q) * (log_q - log_p)).sum(-1)
    found = scored(p, q)
    assert found.tokens == found.compared == 23
    assert found.perplexity == pytest.approx(np.exp(nll.mean()), rel=1e-5)
    assert found.nll_error == pytest.approx(nll.std(ddof=1) / math.sqrt(23), rel=1e-4)
    assert found.perplexity_error == pytest.approx(
        np.exp(nll.mean()) * nll.std(ddof=1) / math.sqrt(23), rel=1e-4
    )
    assert found.kl == pytest.approx(kl.mean(), rel=1e-5)
    assert found.kl_error == pytest.approx(kl.std(ddof=1) / math.sqrt(23), rel=1e-4)
    assert found.top1_agreement == (p.argmax(-1) == q.argmax(-1)).mean()


@pytest.mark.parametrize("shift", [1e-1, 1e-2, 1e-3, 1e-4])
def test_a_small_divergence_is_not_lost_in_rounding(shift: float) -> None:
    """Over a vocabulary of real size, where the plain sum of -q d would be off by about 1e-6."""
    q = drawn(4, vocab=32768)
    p = q + shift * drawn(4, spread=1, seed=5, vocab=32768)
    log_p, log_q = log_softmax(p), log_softmax(q)
    exact = (np.exp(log_q) * (log_q - log_p)).sum(-1).mean()
    assert scored(p, q).kl == pytest.approx(exact, rel=5e-3)


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0, 60), st.floats(0, 60), st.floats(-100, 100))
def test_divergence_is_never_negative_and_agreement_is_a_share(
    seed: int, spread_p: float, spread_q: float, shift: float
) -> None:
    p, q = drawn(6, spread_p, seed), drawn(6, spread_q, seed + 1)
    log_p, log_q = log_softmax(p), log_softmax(q)
    found = scored(p + np.float32(shift), q)
    exact = (np.exp(log_q) * (log_q - log_p)).sum(-1).mean()
    assert found.kl is not None
    assert found.top1_agreement is not None
    assert found.kl >= 0
    assert found.kl == pytest.approx(exact, rel=1e-3, abs=1e-4)
    assert 0 <= found.top1_agreement <= 1


def test_a_model_is_at_no_distance_from_itself() -> None:
    found = scored(drawn(), drawn())
    assert (found.kl, found.kl_error, found.top1_agreement) == (0, 0, 1)


def test_a_model_that_knows_nothing_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    found = scored(np.full((50, VOCAB), -3.5, np.float32))
    assert found.perplexity == pytest.approx(VOCAB)
    assert found.perplexity_error == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_narrow_logits_are_worked_on_in_float32(dtype: mx.Dtype) -> None:
    narrow = mx.array(drawn()).astype(dtype)
    wide = score(narrow.astype(mx.float32), mx.array(targets()))
    assert score(narrow, mx.array(targets())) == wide


def test_parts_add_up_to_the_whole() -> None:
    p, q, ids = mx.array(drawn(seed=1)), mx.array(drawn(seed=2)), mx.array(targets())
    whole = score(p, ids, q)
    parts = score(p[:5], ids[:5], q[:5]).add(score(p[5:], ids[5:], q[5:]))
    for name in ("tokens", "perplexity", "perplexity_error", "kl", "kl_error", "top1_agreement"):
        assert getattr(parts, name) == pytest.approx(getattr(whole, name), rel=1e-9)
    assert Scores().add(whole) == whole


def test_any_leading_shape_will_do() -> None:
    p, ids = drawn(24), targets(24)
    flat = score(mx.array(p), mx.array(ids))
    assert score(mx.array(p.reshape(2, 12, VOCAB)), mx.array(ids.reshape(2, 12))) == flat


def test_equally_likely_tokens_agree_by_the_lowest_id() -> None:
    tied = np.zeros((3, 4), np.float32)
    other = np.array([[1, 0, 0, 1], [0, 1, 0, 0], [5, 5, 5, 5]], np.float32)
    assert scored(tied, other).top1_agreement == pytest.approx(2 / 3)


def test_the_likeliest_token_is_looked_for_before_rounding_ties_it_with_others() -> None:
    p, q = np.zeros((2, 1, 32768), np.float32)
    p[0, 7], q[0, 7] = 1e-7, 1
    assert scored(p, q).top1_agreement == 1


def test_what_one_model_rules_out_counts_as_mass_and_not_as_nan() -> None:
    p, q = drawn(seed=1), drawn(seed=2)
    q[:, 3] = -np.inf
    log_p = log_softmax(p)
    with np.errstate(invalid="ignore"):
        log_q = log_softmax(q)
        terms = np.where(np.exp(log_q) > 0, np.exp(log_q) * (log_q - log_p), 0)
    assert scored(p, q).kl == pytest.approx(terms.sum(-1).mean(), rel=1e-5)
    p[:, 3] = -np.inf
    both = scored(p, q).kl
    assert both is not None
    assert math.isfinite(both)


def test_a_target_ruled_out_makes_the_perplexity_infinite() -> None:
    p = drawn()
    p[4, targets()[4]] = -np.inf
    found = scored(p)
    assert (found.perplexity, found.perplexity_error) == (math.inf, math.inf)
    q = drawn(seed=2)
    assert scored(p, q).kl == math.inf


@pytest.mark.parametrize("broken", [np.nan, np.inf])
@pytest.mark.parametrize("row", [0, 22])
def test_logits_that_are_no_numbers_are_an_error(broken: float, row: int) -> None:
    bad = drawn()
    bad[row, 30] = broken
    with pytest.raises(EvaluationError, match="logits of the model"):
        scored(bad)
    with pytest.raises(EvaluationError, match="logits of the reference"):
        scored(drawn(), bad)


def test_a_row_of_minus_infinity_is_an_error() -> None:
    bad = drawn()
    bad[3] = -np.inf
    with pytest.raises(EvaluationError, match="logits of the model"):
        scored(bad)


@pytest.mark.parametrize("unknown", [VOCAB, -1])
def test_a_target_outside_the_vocabulary_is_an_error(unknown: int) -> None:
    with pytest.raises(EvaluationError, match="vocabulary has 37"):
        score(mx.array(drawn(2)), mx.array([0, unknown]))


def test_two_vocabularies_cannot_be_compared() -> None:
    with pytest.raises(EvaluationError, match="one vocabulary"):
        scored(drawn(), drawn(vocab=VOCAB + 1))


def test_no_token_has_no_figures() -> None:
    none = Scores()
    assert none.kl is none.kl_error is none.nll_error is none.top1_agreement is None
    with pytest.raises(EvaluationError, match="no token"):
        _ = none.perplexity
