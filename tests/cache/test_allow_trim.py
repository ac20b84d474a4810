"""Rings that promise to take the last tokens back: drafts are written, checked and forgotten."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from full_pass import full_pass, model_with
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_ids

from mlx_mistral.cache import RotatingCache

TOLERANCE = 1e-5


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from([None, 1, 2, 5, 9]),
    room=st.integers(0, 6),
    prompt=st.integers(1, 24),
    passes=st.lists(st.tuples(st.integers(1, 9), st.integers(0, 8)), max_size=8),
    closed_after=st.integers(0, 8),
)
def test_drafts_taken_back_leave_the_text_as_if_never_written(
    window: int | None,
    room: int,
    prompt: int,
    passes: list[tuple[int, int]],
    closed_after: int,
) -> None:
    model, cache = model_with(window), model_with(window).make_cache()
    text = random_ids(prompt)
    model(mx.array([text]), cache)
    for one in cache:
        one.allow_trim(room)
    for n, (length, back) in enumerate(passes):
        if n == closed_after:
            for one in cache:
                one.allow_trim(0)
        fed = random_ids(length, seed=n)
        out = np.array(model(mx.array([fed]), cache)[0])
        text = text + fed
        assert np.abs(out - full_pass(model, text)[-length:]).max() < TOLERANCE
        back = min(back, length, room if n < closed_after else 0)
        assert {one.trim(back) for one in cache} == {back}
        text = text[: len(text) - back]


@pytest.mark.parametrize("length", [8, 40])
def test_as_many_tokens_as_promised_can_be_taken_back_past_a_wrap(length: int) -> None:
    cache = RotatingCache(4)
    cache.allow_trim(3)
    for _ in range(length):
        cache.update_and_fetch(mx.ones((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
    assert all(cache.can_trim(n) for n in range(4))
    assert not cache.can_trim(5)


def test_the_promise_costs_its_slots_and_gives_them_back() -> None:
    cache = RotatingCache(4)
    cache.update_and_fetch(mx.ones((1, 1, 20, 2)), mx.ones((1, 1, 20, 2)))
    cache.allow_trim(3)
    assert cache.capacity == 4 + 3
    cache.allow_trim(0)
    assert cache.capacity == 4


def test_a_batch_of_uneven_texts_takes_drafts_back() -> None:
    model, padding = model_with(5), [0, 4]
    cache = model.make_cache(left_padding=padding)
    rows = [random_ids(13), [0] * 4 + random_ids(9, seed=1)]
    model(mx.array(rows), cache)
    for one in cache:
        one.allow_trim(3)
    for n in range(4):
        drafts = [random_ids(3, seed=10 + n), random_ids(3, seed=20 + n)]
        model(mx.array(drafts), cache)
        for one in cache:
            one.trim(2)
        rows = [[*row, draft[0]] for row, draft in zip(rows, drafts, strict=True)]
    last = [random_ids(1, seed=50), random_ids(1, seed=51)]
    out = np.array(model(mx.array(last), cache)[:, -1])
    for row, pad, end, got in zip(rows, padding, last, out, strict=True):
        assert np.abs(got - full_pass(model, row[pad:] + end)[-1]).max() < TOLERANCE
