"""Names and combinations of tests."""

from __future__ import annotations

import pytest
from tiny import tiny_config

from mlx_mistral.bench.cases import Case, cases_for, check_context
from mlx_mistral.errors import ContextError


def test_names_are_those_of_llama_bench() -> None:
    assert Case(prompt_tokens=512).name == "pp512"
    assert Case(gen_tokens=128, depth=4096).name == "tg128 @ d4096"
    assert Case(gen_tokens=128, depth=4096, batch=8).name == "tg128 b8 @ d4096"


def test_every_combination_is_measured_and_each_depth_filled_once() -> None:
    cases = cases_for(prompt_tokens=[8, 16], gen_tokens=[4], depths=[0, 32], batches=[1, 2])
    assert [case.name for case in cases] == [
        "pp8", "pp16", "tg4",
        "pp8 @ d32", "pp16 @ d32", "tg4 @ d32",
        "pp8 b2", "pp16 b2", "tg4 b2",
        "tg4 b2 @ d32",
    ]  # fmt: skip


def test_zero_tokens_ask_for_no_test() -> None:
    cases = cases_for(prompt_tokens=[0], gen_tokens=[0, 4], depths=[0], batches=[1])
    assert [case.name for case in cases] == ["tg4"]


def test_a_batch_counts_the_tokens_of_all_texts() -> None:
    assert Case(prompt_tokens=10, batch=3).tokens == 30
    assert Case(gen_tokens=7, batch=3, depth=100).tokens == 21


def test_a_test_longer_than_the_models_positions_is_refused() -> None:
    config = tiny_config(max_position_embeddings=64)
    check_context([Case(gen_tokens=29, depth=32)], config)
    with pytest.raises(ContextError, match=r"tg30 @ d32 needs 65 tokens .* has 64"):
        check_context([Case(gen_tokens=30, depth=32)], config)
