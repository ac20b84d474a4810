"""Texts that are decoded together stay inside the budget, however many they are."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
import pytest

from mlx_mistral import batch_generate
from mlx_mistral.errors import MemoryBudgetError
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


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("kv_bits", [None, 8])
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
    for spare_bytes in (10_000_000, 16_000_000, 24_000_000):
        _, told, over = drawn(model, spare_bytes)
        assert over <= 0
    assert told == []


def test_not_even_one_is_refused_in_one_line(model: Model) -> None:
    with pytest.raises(MemoryBudgetError, match="a prompt of 250 tokens does not fit") as caught:
        drawn(model, 600_000)
    assert "\n" not in str(caught.value)
