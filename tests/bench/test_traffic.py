"""Bytes and multiplications of a token, against sums by hand and by counting."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import mlx.core as mx
import pytest
from tiny import MOE, tiny_config

from mlx_mistral.bench.cases import Case
from mlx_mistral.bench.traffic import work_of
from mlx_mistral.checkpoint import Headers, read_folder
from mlx_mistral.memory.traffic import distinct_experts, keys_seen
from tests.checkpoint.models import hf_weights, write_hf

ATTENTION = 64 * 64 + 2 * 32 * 64 + 64 * 64
"""Weights of one layer's projections in the tiny checkpoint: q, k, v, o."""
NORMS = 2 * 64
EXPERT = 3 * 64 * 96
HEAD = 80 * 64
KEY_BYTES = 2 * 2 * 16 * 4
"""One token's key and value in one layer: two heads of 16 numbers, in float32."""


@pytest.fixture
def dense(tmp_path: Path) -> Headers:
    return read_folder(write_hf(tmp_path / "dense", hf_weights()))


@pytest.fixture
def mixture(tmp_path: Path) -> Headers:
    return read_folder(write_hf(tmp_path / "mixture", hf_weights(moe=True), moe=True))


def bytes_of(headers: Headers, case: Case, window: int | None = None) -> int:
    config = replace(headers.config, windows=(window, window))
    return work_of(case, config, headers.parameters, 4).bytes_per_token


def test_a_token_reads_all_weights_but_the_rows_of_other_tokens(dense: Headers) -> None:
    weights = 4 * (2 * (ATTENTION + NORMS + EXPERT) + 64 + HEAD + 64)
    seen = (12 + 13 + 14 + 15) / 4 * 2 * KEY_BYTES
    assert bytes_of(dense, Case(gen_tokens=4, depth=10)) == weights + seen


def test_of_the_cache_a_token_reads_no_more_than_its_window(dense: Headers) -> None:
    weights = 4 * (2 * (ATTENTION + NORMS + EXPERT) + 64 + HEAD + 64)
    for depth in (8, 100):
        case = Case(gen_tokens=4, depth=depth)
        assert bytes_of(dense, case, window=8) == weights + 8 * 2 * KEY_BYTES


def test_a_batch_shares_the_weights_and_not_the_caches(dense: Headers) -> None:
    weights = 4 * (2 * (ATTENTION + NORMS + EXPERT) + 64 + HEAD + 4 * 64)
    case = Case(gen_tokens=1, depth=10, batch=4)
    assert bytes_of(dense, case) == weights / 4 + 12 * 2 * KEY_BYTES


def test_of_the_experts_a_token_reads_its_own(mixture: Headers) -> None:
    router = 64 * 4
    layer = ATTENTION + NORMS + router + 2 * EXPERT
    weights = 4 * (2 * layer + 64 + HEAD + 64)
    assert bytes_of(mixture, Case(gen_tokens=1)) == weights + 2 * 2 * KEY_BYTES


def test_quantized_weights_count_as_they_are_stored(tmp_path: Path) -> None:
    weights = {name: mx.array(array) for name, array in hf_weights().items()}
    packed, scales, biases = mx.quantize(weights.pop("lm_head.weight"), group_size=64, bits=4)
    parts = {"weight": packed, "scales": scales, "biases": biases}
    folder = write_hf(
        tmp_path / "quantized", hf_weights(), quantization={"group_size": 64, "bits": 4}
    )
    (folder / "model.safetensors").unlink()
    stored = weights | {f"lm_head.{part}": array for part, array in parts.items()}
    mx.save_safetensors(str(folder / "model.safetensors"), stored)
    head = HEAD // 2 + 2 * 80 * 4
    floats = 2 * (ATTENTION + NORMS + EXPERT) + 64 + 64
    case = Case(gen_tokens=1)
    assert bytes_of(read_folder(folder), case) == 4 * floats + head + 2 * 2 * KEY_BYTES


def test_tied_embeddings_are_read_whole_as_the_head(dense: Headers) -> None:
    parameters = {name: p for name, p in dense.parameters.items() if name != "lm_head.weight"}
    config = replace(dense.config, tied_embeddings=True)
    work = work_of(Case(gen_tokens=1), config, parameters, 4)
    weights = 4 * (2 * (ATTENTION + NORMS + EXPERT) + 64 + HEAD)
    assert work.bytes_per_token == weights + 2 * 2 * KEY_BYTES


def test_a_prompt_reads_the_weights_once_for_all_its_tokens(dense: Headers) -> None:
    weights = 4 * (2 * (ATTENTION + NORMS + EXPERT) + 64 + HEAD + 20 * 64)
    assert bytes_of(dense, Case(prompt_tokens=20)) == round(weights / 20 + 2 * KEY_BYTES)


@pytest.mark.parametrize(("experts", "picked", "tokens"), [(4, 2, 1), (4, 2, 3), (5, 1, 4)])
def test_expected_experts_are_those_of_all_equally_likely_choices(
    experts: int, picked: int, tokens: int
) -> None:
    config = tiny_config(moe={"num_experts": experts, "num_experts_per_tok": picked})
    choices = list(combinations(range(experts), picked))
    drawn = [len(set().union(*draw)) for draw in product(choices, repeat=tokens)]
    assert distinct_experts(config, tokens) == pytest.approx(sum(drawn) / len(drawn))


def test_a_dense_layer_is_one_expert() -> None:
    assert distinct_experts(tiny_config(), 5) == 1
    assert distinct_experts(tiny_config(**MOE), 10**6) == pytest.approx(8)


@pytest.mark.parametrize("window", [None, 1, 6, 40])
@pytest.mark.parametrize(("before", "tokens"), [(0, 1), (0, 30), (3, 9), (38, 7), (90, 5)])
def test_keys_seen_are_those_that_a_loop_counts(
    window: int | None, before: int, tokens: int
) -> None:
    config = replace(tiny_config(), windows=(window, None, window, 7))
    counted = sum(
        min(before + n, before + tokens if one is None else one)
        for one in config.windows
        for n in range(1, tokens + 1)
    )
    assert keys_seen(config, before, tokens) == counted


def test_flops_are_two_a_weight_and_four_a_key_and_number(dense: Headers) -> None:
    work = work_of(Case(gen_tokens=1, depth=5), dense.config, dense.parameters, 4)
    assert work.flops_per_token == 2 * (2 * (ATTENTION + EXPERT) + HEAD) + 7 * 2 * 4 * 64
