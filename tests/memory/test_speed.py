"""The expected speed against published runs that it was not made from, and its parts."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mistral.backend.scratch import CPU, METAL, UNFUSED, ScratchSizes
from mlx_mistral.config import ModelConfig
from mlx_mistral.memory import ModelNeeds, find_chip
from mlx_mistral.memory.speed import FASTEST_TPS, cache_read
from tests.memory.paper import HF_7B, HF_8X7B, HF_22B, on_paper
from tests.tiny import FAMILIES, tiny_config


def needs(config: dict[str, Any], bits: int | None, group_size: int = 64) -> ModelNeeds:
    return ModelNeeds.of(on_paper(config, bits, group_size), dtype="bfloat16", scratch=METAL)


@pytest.mark.parametrize(
    ("config", "bits", "group_size", "gb"),
    [(HF_7B, 4, 64, 4.00), (HF_8X7B, 4, 64, 7.17), (HF_8X7B, 4, 128, 6.77)],
)
def test_a_token_reads_what_others_reckon_with(
    config: dict[str, Any], bits: int, group_size: int, gb: float
) -> None:
    """Input embedding excluded, as the published shares of bandwidth were computed."""
    assert needs(config, bits, group_size).read_bytes / 1e9 == pytest.approx(gb, abs=0.006)


PUBLISHED = [
    # mlx-lm 0.31.3 runs of September 2026; MLX issue 3251; LM Studio's mlx-engine, issue 101.
    ("M5 Max 40-core", HF_8X7B, 4, 64, 65.9),
    ("M1 Ultra", HF_8X7B, 4, 64, 54.3),
    ("M2 Ultra", HF_8X7B, 4, 128, 69.6),
    ("M2 Ultra", HF_22B, 8, 64, 26.0),
]


@pytest.mark.parametrize(("chip", "config", "bits", "group_size", "tps"), PUBLISHED)
def test_it_is_within_a_quarter_of_published_runs_of_other_models(
    chip: str, config: dict[str, Any], bits: int, group_size: int, tps: float
) -> None:
    speed = needs(config, bits, group_size).speed(find_chip(chip), 0)
    assert speed is not None
    assert speed.tps == pytest.approx(tps, rel=0.25)


@pytest.mark.parametrize("config", [HF_7B, HF_8X7B, HF_7B | {"tie_word_embeddings": True}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_configuration_tells_of_a_plain_model_what_its_headers_tell(
    config: dict[str, Any], dtype: str
) -> None:
    by_headers = ModelNeeds.of(on_paper(config, None), dtype=dtype, scratch=METAL)
    by_config = ModelNeeds.of_unquantized(ModelConfig.from_hf(config), dtype=dtype, scratch=METAL)
    assert by_config.weights_bytes == by_headers.weights_bytes
    assert by_config.read_bytes == by_headers.read_bytes
    assert [n for n, _ in by_config.uniform_bytes] == [n for n, _ in by_headers.uniform_bytes]
    for (_, nearly), (_, exactly) in zip(
        by_config.uniform_bytes, by_headers.uniform_bytes, strict=True
    ):
        assert nearly == pytest.approx(exactly, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("depth", [0, 1, 5, 40])
def test_the_cache_that_is_read_is_what_the_windows_let_see(family: str, depth: int) -> None:
    config = tiny_config(**FAMILIES[family])
    seen = [len(range(depth)[-window if window else 0 :]) for window in config.windows]
    one = 2 * config.n_kv_heads * config.head_dim * 2
    assert cache_read(config, depth, 2) == one * sum(seen)


def test_speed_is_bandwidth_by_bytes_and_falls_with_the_depth() -> None:
    model, chip = needs(HF_7B, 4), find_chip("M2")
    start, end = model.speed(chip, 0), model.speed(chip, 32768)
    assert start is not None
    assert end is not None
    assert start.tps == pytest.approx(100e9 * 0.88 / model.read_bytes)
    assert end.cache_bytes == 32768 * 131072
    assert end.tps == pytest.approx(100e9 * 0.88 / (model.read_bytes + 32768 * 131072))


def test_nothing_is_said_of_models_that_memory_does_not_bind_nor_without_a_chip() -> None:
    tiny = ModelNeeds.of_unquantized(tiny_config(), dtype="bfloat16", scratch=METAL)
    assert tiny.speed(find_chip("M1"), 0) is None
    assert needs(HF_7B, 4).speed(None, 0) is None
    fast = needs(HF_7B, 2).speed(find_chip("M5 Ultra"), 0)
    assert fast is None or fast.tps <= FASTEST_TPS


def test_advised_bits_fit_and_more_do_not() -> None:
    model = needs(HF_7B, None)
    budget = 9 * 10**9
    bits = model.fitting_bits(8192, budget)
    assert bits is not None
    needed = {n: needs(HF_7B, n).plan(8192, budget).fits for n in (4, 6, 8)}
    assert [n for n, fits in needed.items() if fits] == [n for n in needed if n <= bits]
    assert needs(HF_7B, 4).fitting_bits(8192, 10**9) is None


@pytest.mark.parametrize(
    ("dtype", "scratch", "bits", "expected"),
    [
        ("bfloat16", CPU, None, True),
        ("bfloat16", METAL, None, False),
        ("bfloat16", UNFUSED, None, False),
        ("float32", CPU, None, False),
        ("bfloat16", CPU, 4, False),
    ],
)
def test_plain_experts_are_widened_by_the_cpu_backend_alone(
    dtype: str, scratch: ScratchSizes, bits: int | None, expected: bool
) -> None:
    headers = on_paper(HF_8X7B, bits)
    plans = [ModelNeeds.of(headers, dtype=dtype, scratch=scratch)]
    if bits is None:
        plans.append(ModelNeeds.of_unquantized(headers.config, dtype=dtype, scratch=scratch))
    for plan in plans:
        widened = plan.scratch.widened_experts(plan.config, plan.activation_bytes)
        assert widened == (3 * 4 * 8 * 4096 * 14336 if expected else 0)
