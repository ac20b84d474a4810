"""Each cut against its definition in NumPy, and draws against the distribution they claim."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.generation import Sampler, Sampling
from mlx_mistral.generation.sampling import keep_likeliest, stream_seed


def draw(logits: list[float], n: int, **options: float) -> np.ndarray:
    """n draws at once: the rows of a batch are drawn independently."""
    sampler = Sampler(Sampling(**{"temp": 1.0, "seed": 5, **options}), len(logits), [[]] * n)  # type: ignore[arg-type]
    return np.array(sampler(mx.broadcast_to(mx.array(logits), (n, len(logits)))))


def kept_by_definition(logits: np.ndarray, top_k: int, top_p: float, min_p: float) -> set[int]:
    order = list(np.argsort(-logits, kind="stable"))
    if top_k:
        order = order[:top_k]
    shares = np.exp(logits[order] - logits[order].max())
    shares /= shares.sum()
    kept, mass = set(), 0.0
    for token, share in zip(order, shares, strict=True):
        if mass >= top_p and kept:
            break
        mass += share
        if share >= min_p * shares[0]:
            kept.add(int(token))
    return kept


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.floats(-6, 6, width=16), min_size=2, max_size=12, unique=True),
    st.integers(0, 6),
    st.sampled_from([0.05, 0.31, 0.77, 0.93, 1.0]),
    st.sampled_from([0.0, 0.07, 0.4, 1.0]),
)
def test_the_cuts_keep_what_their_definitions_keep(
    values: list[float], top_k: int, top_p: float, min_p: float
) -> None:
    logits = np.array(values)
    order = np.argsort(-logits)
    ranked = mx.array(logits[order].astype(np.float32))[None]
    kept = np.isfinite(np.array(keep_likeliest(ranked, top_k, top_p, min_p)))[0]
    assert {int(token) for token in order[kept]} == kept_by_definition(logits, top_k, top_p, min_p)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("cut", [{}, {"top_k": 4}, {"top_p": 0.9}, {"min_p": 0.05}])
def test_draws_follow_the_distribution(temperature: float, cut: dict[str, float]) -> None:
    logits = np.array([2.0, -1.0, 0.5, 1.5, -3.0, 0.0])
    drawn = draw(list(logits), 40000, temp=temperature, **cut)
    kept = kept_by_definition(
        logits / temperature, int(cut.get("top_k", 0)), cut.get("top_p", 1.0), cut.get("min_p", 0.0)
    )
    expected = np.exp(logits / temperature) * [token in kept for token in range(6)]
    shares = np.bincount(drawn, minlength=6) / 40000
    # Five standard deviations of a share drawn 40,000 times.
    assert np.abs(shares - expected / expected.sum()).max() < 5 * 0.5 / 200
    assert set(drawn) <= kept


def test_temperature_zero_takes_the_likeliest() -> None:
    assert set(draw([0.1, 3.0, 2.9], 20, temp=0.0)) == {1}


def test_a_seed_repeats_its_draws_and_another_does_not() -> None:
    logits = [0.0] * 50
    first = draw(logits, 30)
    assert (draw(logits, 30) == first).all()
    assert (draw(logits, 30, seed=6) != first).any()


def test_no_seed_draws_anew() -> None:
    first, second = (
        np.array(Sampler(Sampling(temp=1.0), 1000, [[]] * 30)(mx.zeros((30, 1000))))
        for _ in range(2)
    )
    assert (first != second).any()


def test_successive_draws_differ() -> None:
    sampler = Sampler(Sampling(temp=1.0, seed=1), 1000, [[]])
    assert len({sampler(mx.zeros((1, 1000))).item() for _ in range(8)}) > 4


def test_the_penalty_divides_what_the_text_holds_and_what_it_gains() -> None:
    sampler = Sampler(Sampling(repetition_penalty=2.0), 4, [[3], [0]])
    logits = mx.array([[3.0, 2.5, -1.0, 4.0], [3.0, 2.5, -1.0, 4.0]])
    # Row 0: 4.0 / 2 < 3.0. Row 1: 3.0 / 2, and 4.0 stays.
    assert sampler(logits).tolist() == [0, 3]
    # Row 0 now holds 3 and 0, row 1 holds 0 and 3: 2.5 is left.
    assert sampler(logits).tolist() == [1, 1]


def test_the_penalty_lowers_negative_logits_too() -> None:
    sampler = Sampler(Sampling(repetition_penalty=3.0), 2, [[0]])
    assert sampler(mx.array([[-1.0, -2.0]])).tolist() == [1]


@pytest.mark.parametrize(
    "options",
    [
        {"temp": -0.1},
        {"temp": float("nan")},
        {"temp": float("inf")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.5},
        {"repetition_penalty": 0.0},
        {"seed": -1},
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(MlxMistralError, match="expected"):
        Sampling(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"top_k": 5}, {"top_p": 0.8, "repetition_penalty": 1.4}])
def test_a_text_is_drawn_the_same_whatever_else_is_drawn(options: dict[str, float]) -> None:
    logits = mx.array(np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32))
    together = Sampler(Sampling(temp=1.0, seed=9, **options), 40, [[1]] * 5)  # type: ignore[arg-type]
    drawn = [together(logits).tolist() for _ in range(6)]
    for row in range(5):
        seed = stream_seed(9, row)
        alone = Sampler(Sampling(temp=1.0, seed=seed, **options), 40, [[1]])  # type: ignore[arg-type]
        assert [alone(logits[row : row + 1]).item() for _ in range(6)] == [d[row] for d in drawn]


def test_streams_of_one_seed_begin_with_the_seed_itself_and_differ() -> None:
    assert stream_seed(7, 0) == 7
    assert len({stream_seed(seed, index) for seed in range(20) for index in range(20)}) == 400
