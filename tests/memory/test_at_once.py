"""Texts that are decoded together stay inside the budget, however many they are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import pytest

from mlx_mistral import batch_generate
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.generation import BatchGenerator
from mlx_mistral.memory.batch import Extent, batch_bytes
from mlx_mistral.memory.pass_needs import scratch_of
from mlx_mistral.model import Model
from tests.memory.test_plan import scaled_config
from tests.tiny import random_ids, tiny_model

N_TEXTS = 6


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(scaled_config())


@contextmanager
def budget(model: Model, spare_bytes: int) -> Iterator[int]:
    """So much beside what is taken, of which nothing is garbage."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    model.budget_bytes = mx.get_active_memory() + spare_bytes
    mx.reset_peak_memory()
    try:
        yield model.budget_bytes
    finally:
        model.budget_bytes = None


def drawn(
    model: Model, spare_bytes: int, *, same: bool = True, kv_bits: int | None = None
) -> tuple[list[list[int]], list[str], int]:
    """Tokens, what was told, and the bytes over the budget."""
    told: list[str] = []
    with budget(model, spare_bytes) as n_bytes:
        prompts = [random_ids(250, 266, 0 if same else seed) for seed in range(N_TEXTS)]
        made = batch_generate(
            model, None, prompts, max_tokens=12, temp=0.7, seed=1, kv_bits=kv_bits,
            tell=told.append,
        )  # fmt: skip
        return made.token_ids, told, mx.get_peak_memory() - n_bytes


@pytest.mark.parametrize(("same", "kv_bits"), [(True, None), (False, None), (True, 8)])
def test_fewer_run_at_once_and_say_the_same(model: Model, same: bool, kv_bits: int | None) -> None:
    at_once, told, _ = drawn(model, 1 << 40, same=same, kv_bits=kv_bits)
    assert told == []
    spare_bytes = 4_000_000 if kv_bits is None else 2_000_000
    fewer, told, over = drawn(model, spare_bytes, same=same, kv_bits=kv_bits)
    assert over <= 0
    assert sum("of 6 texts at once; the others wait" in line for line in told) == 1
    assert fewer == at_once


def test_many_rows_of_a_large_vocabulary_are_counted() -> None:
    model = tiny_model(scaled_config(vocab_size=20000, dim=32))
    texts = [Extent(250, 262)] * N_TEXTS
    enough = batch_bytes(model.config, texts, model.dtype.size, scratch=scratch_of(model))
    for spare_bytes in (enough * 2 // 5, enough * 2 // 3, enough):
        _, told, over = drawn(model, spare_bytes)
        assert over <= 0
    assert told == []


def test_not_even_one_is_refused_in_one_line(model: Model) -> None:
    with pytest.raises(MemoryBudgetError, match="a prompt of 250 tokens does not fit") as caught:
        drawn(model, 600_000)
    assert "\n" not in str(caught.value)


def test_texts_of_any_length_that_come_and_go_stay_inside(model: Model) -> None:
    told: list[str] = []
    with budget(model, 2_500_000) as n_bytes:
        batch = BatchGenerator(model, tell=told.append)
        wanted = dict(enumerate([(250, 30), (20, 300), (400, 5), (60, 80), (255, 12), (10, 3)]))
        for n_prompt, n_tokens in wanted.values():
            batch.insert(random_ids(n_prompt, 266, n_prompt), max_tokens=n_tokens)
        made = dict.fromkeys(wanted, 0)
        while batch:
            for new in batch.next():
                made[new.id] += 1
        assert mx.get_peak_memory() <= n_bytes
    assert made == {id: n_tokens for id, (_, n_tokens) in wanted.items()}
    assert "of 6 texts at once; the others wait" in told[0]
    assert len(told) == len(set(told)) <= 2


def test_a_text_ends_where_the_budget_does_and_says_so(model: Model) -> None:
    told: list[str] = []
    before = mx.set_memory_limit(1 << 40)
    try:
        with budget(model, 1_500_000) as n_bytes:
            batch = BatchGenerator(model, tell=told.append)
            batch.insert(random_ids(200, 266), max_tokens=5000)
            batch.insert(random_ids(20, 266), max_tokens=4)
            made = [batch.next()]
            assert mx.set_memory_limit(n_bytes) == n_bytes
            while batch:
                made.append(batch.next())
            assert mx.get_peak_memory() <= n_bytes
        assert mx.set_memory_limit(1 << 40) == 1 << 40
    finally:
        mx.set_memory_limit(before)
    of_first = [new for news in made for new in news if new.id == 0]
    assert 1 < len(of_first) < 5000
    assert [new.is_last for new in of_first] == [False] * (len(of_first) - 1) + [True]
    assert f"its reply ends after {len(of_first)}; give more with --memory" in told[0]


def test_a_prompt_that_does_not_fit_disturbs_no_other(model: Model) -> None:
    with budget(model, 1_500_000):
        batch = BatchGenerator(model)
        batch.insert(random_ids(100, 266), max_tokens=3)
        with pytest.raises(MemoryBudgetError):
            batch.insert(random_ids(4000, 266), max_tokens=3)
        made = []
        while batch:
            made += batch.next()
    assert len(made) == 3


def test_what_was_taken_before_the_first_text_runs_counts(model: Model) -> None:
    with budget(model, 2_500_000):
        batch = BatchGenerator(model)
        batch.insert(random_ids(100, 266), max_tokens=3)
        other = mx.zeros(1 << 20)
        mx.eval(other)
        with pytest.raises(MemoryBudgetError, match="not even alone"):
            batch.next()
