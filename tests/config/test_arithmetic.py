"""Against the figures that were published for each model, or follow from its file sizes."""

from __future__ import annotations

import pytest

from mlx_mistral.config import ModelConfig
from mlx_mistral.config.arithmetic import (
    active_parameters,
    attention_flops_per_key,
    cache_bytes,
    flops_per_token,
    kv_bytes_per_token,
    kv_compression,
    parameters,
    receptive_field,
)


def architecture(
    dim: int, layers: int, heads: int, hidden: int, vocab: int, **extra: object
) -> ModelConfig:
    return ModelConfig.from_params(
        {
            "dim": dim,
            "n_layers": layers,
            "n_heads": heads,
            "n_kv_heads": 8,
            "head_dim": 128,
            "hidden_dim": hidden,
            "vocab_size": vocab,
            "norm_eps": 1e-5,
            **extra,
        }
    )


EIGHT_EXPERTS = {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}
MISTRAL_7B = architecture(4096, 32, 32, 14336, 32000, sliding_window=4096)
MIXTRAL_8X7B = architecture(4096, 32, 32, 14336, 32000, **EIGHT_EXPERTS)
MIXTRAL_8X22B = architecture(6144, 56, 48, 16384, 32000, **EIGHT_EXPERTS)
NEMO = architecture(5120, 40, 32, 14336, 131072)
LARGE_2 = architecture(12288, 88, 96, 28672, 32768)
MINISTRAL_8B = architecture(
    4096, 36, 32, 12288, 131072, _sliding_window=[None, 32768, 32768, 32768]
)
SMALL_24B = architecture(5120, 40, 32, 32768, 131072)
MINISTRAL_3_3B = architecture(3072, 26, 32, 9216, 131072, tied_embeddings=True)


@pytest.mark.parametrize(
    ("config", "billions", "active_billions", "kv_kib"),
    [
        pytest.param(MISTRAL_7B, 7.242, 7.242, 128, id="7b"),
        pytest.param(MIXTRAL_8X7B, 46.703, 12.880, 128, id="8x7b"),
        pytest.param(MIXTRAL_8X22B, 140.621, 39.15, 224, id="8x22b"),
        pytest.param(NEMO, 12.248, 12.248, 160, id="nemo"),
        pytest.param(LARGE_2, 122.610, 122.610, 352, id="large-2"),
        pytest.param(MINISTRAL_8B, 8.020, 8.020, 144, id="ministral-8b"),
        pytest.param(SMALL_24B, 23.572, 23.572, 160, id="small-24b"),
        pytest.param(MINISTRAL_3_3B, 3.429, 3.429, 104, id="ministral-3-3b-tied"),
    ],
)
def test_the_counts_are_the_published_ones(
    config: ModelConfig, billions: float, active_billions: float, kv_kib: int
) -> None:
    assert parameters(config) / 1e9 == pytest.approx(billions, abs=6e-4)
    assert active_parameters(config) / 1e9 == pytest.approx(active_billions, abs=6e-3)
    assert kv_bytes_per_token(config) == kv_kib * 1024


def test_7b_in_16_bits_has_the_size_of_its_files() -> None:
    # The two shards of Mistral-7B-v0.1 hold 14,483,464,192 bytes, as their index says.
    assert 2 * parameters(MISTRAL_7B) == 14_483_464_192


def test_a_token_costs_two_operations_for_each_weight_that_multiplies_it() -> None:
    norms = (2 * 32 + 1) * 4096
    lookup = 32000 * 4096
    assert flops_per_token(MISTRAL_7B) == 2 * (parameters(MISTRAL_7B) - norms - lookup)
    tied_norms = (2 * 26 + 1) * 3072
    assert flops_per_token(MINISTRAL_3_3B) == 2 * (parameters(MINISTRAL_3_3B) - tied_norms)


def test_experts_that_are_not_picked_cost_nothing() -> None:
    assert flops_per_token(MIXTRAL_8X7B) < 2 * active_parameters(MIXTRAL_8X7B)
    assert flops_per_token(MIXTRAL_8X7B) > 0.98 * 2 * active_parameters(MIXTRAL_8X7B)


def test_attention_costs_a_score_and_a_sum_for_each_key() -> None:
    assert attention_flops_per_key(MISTRAL_7B) == 32 * 32 * (2 * 128 + 2 * 128)


def test_grouped_queries_divide_the_cache() -> None:
    assert kv_compression(MISTRAL_7B) == 4
    assert kv_compression(LARGE_2) == 12


def test_each_layer_passes_on_one_more_window() -> None:
    assert receptive_field(MISTRAL_7B) == 131072
    assert receptive_field(NEMO) is None
    assert receptive_field(MINISTRAL_8B) is None


def test_a_window_bounds_the_cache() -> None:
    assert cache_bytes(MISTRAL_7B, 100) == 100 * 128 * 1024
    assert cache_bytes(MISTRAL_7B, 1_000_000) == 512 << 20
    assert cache_bytes(NEMO, 1000) == 1000 * 160 * 1024


def test_layers_without_a_window_keep_growing() -> None:
    # 9 full and 27 windowed layers: 7.9 GiB at 131,072 tokens where 18 would be without windows.
    assert cache_bytes(MINISTRAL_8B, 131072) / 2**30 == pytest.approx(7.875)
