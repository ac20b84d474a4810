"""The shapes for which Metal writes no scores.

Expected values were read from `has_fused_kernel` and `use_fallback` in MLX 0.32,
mlx/backend/metal/scaled_dot_product_attention.cpp; nothing here runs on Metal.
"""

from __future__ import annotations

import pytest

from mlx_mistral.backend.fused_attention import MaskKind, fused_attention, partial_blocks
from mlx_mistral.backend.scratch import METAL, UNFUSED
from mlx_mistral.config import ModelConfig
from tests.tiny import tiny_config


@pytest.mark.parametrize(
    ("head_dim", "n_queries", "n_keys", "gqa_factor", "mask", "is_fused"),
    [
        pytest.param(128, 512, 4096, 4, "causal", True, id="Mistral 7B, prefill"),
        pytest.param(128, 512, 512, 4, "causal", True, id="Mistral 7B, first chunk"),
        pytest.param(128, 512, 4607, 4, "array", True, id="Mistral 7B, window"),
        pytest.param(128, 512, 256, 4, "causal", False, id="more queries than keys"),
        pytest.param(128, 1, 4096, 4, "none", True, id="Mistral 7B, decode"),
        pytest.param(128, 1, 4096, 4, "array", True, id="Mistral 7B, decode in a fixed buffer"),
        pytest.param(128, 8, 4096, 4, "causal", True, id="Mistral 7B, draft of 8"),
        pytest.param(128, 9, 4096, 4, "causal", True, id="Mistral 7B, draft of 9"),
        pytest.param(128, 9, 4096, 4, "array", True, id="Mistral 7B, draft of 9 in a ring"),
        pytest.param(128, 5, 4096, 8, "array", False, id="5 queries x 8 heads are over 32"),
        pytest.param(128, 4, 4096, 8, "array", True, id="4 queries x 8 heads are 32"),
        pytest.param(128, 8, 4096, 8, "causal", False, id="draft of 8 with 8 heads a key head"),
        pytest.param(128, 9, 4096, 8, "causal", True, id="draft of 9: the other kernel"),
        pytest.param(128, 8, 7, 1, "none", False, id="vector: more queries than keys"),
        pytest.param(128, 512, 8192, 4, "causal", True, id="Nemo, prefill"),
        pytest.param(128, 1, 8192, 4, "none", True, id="Nemo, decode"),
        pytest.param(128, 512, 8192, 12, "causal", True, id="Mistral Large, prefill"),
        pytest.param(128, 1, 8192, 12, "none", True, id="Mistral Large, decode"),
        pytest.param(128, 3, 8192, 12, "causal", False, id="Mistral Large, draft of 3"),
        pytest.param(64, 512, 4096, 4, "causal", True, id="heads of 64, prefill"),
        pytest.param(64, 1, 4096, 4, "none", True, id="heads of 64, decode"),
        pytest.param(72, 512, 4096, 4, "causal", True, id="heads of 72, prefill"),
        pytest.param(72, 1, 4096, 4, "none", False, id="heads of 72, decode"),
        pytest.param(80, 512, 4096, 4, "causal", True, id="heads of 80, prefill"),
        pytest.param(80, 1, 4096, 4, "none", False, id="heads of 80, decode"),
        pytest.param(96, 512, 4096, 4, "causal", True, id="heads of 96, prefill"),
        pytest.param(96, 1, 4096, 4, "none", True, id="heads of 96, decode"),
        pytest.param(192, 512, 4096, 4, "causal", False, id="heads of 192, prefill"),
        pytest.param(192, 1, 4096, 4, "none", False, id="heads of 192, decode"),
        pytest.param(256, 512, 4096, 4, "causal", False, id="heads of 256, prefill"),
        pytest.param(256, 1, 4096, 4, "none", True, id="heads of 256, decode"),
        pytest.param(32, 512, 4096, 4, "causal", False, id="heads of 32, prefill"),
        pytest.param(32, 1, 4096, 4, "none", False, id="heads of 32, decode"),
    ],
)
def test_metal_has_a_kernel(
    head_dim: int, n_queries: int, n_keys: int, gqa_factor: int, mask: MaskKind, is_fused: bool
) -> None:
    assert is_fused == fused_attention(
        head_dim=head_dim,
        n_queries=n_queries,
        n_keys=n_keys,
        gqa_factor=gqa_factor,
        mask=mask,
    )


@pytest.mark.parametrize(
    ("n_keys", "blocks"),
    [(1024, 128), (8192, 128), (8193, 256), (16384, 512), (65535, 512), (65536, 1024)],
)
def test_the_vector_kernel_reduces_keys_in_blocks(n_keys: int, blocks: int) -> None:
    assert partial_blocks(n_keys) == blocks


def of(head_dim: int = 128, gqa_factor: int = 4, **changes: int) -> ModelConfig:
    return tiny_config(
        head_dim=head_dim, n_heads=2 * gqa_factor, n_kv_heads=2, dim=512, n_layers=8, **changes
    )


def test_metal_writes_scores_only_where_no_kernel_is_fused() -> None:
    scores = 512 * 4096 * 8 * 2
    assert METAL.attention(of(), None, 512, 4096, 2) == 0
    assert METAL.attention(of(256), None, 512, 4096, 2) >= scores
    assert METAL.attention(of(256), None, 512, 4096, 2) == UNFUSED.attention(
        of(256), None, 512, 4096, 2
    )
    # A draft of 8: an output of every block, with its sum and maximum.
    assert METAL.attention(of(), None, 8, 4096, 2) == 8 * 8 * 128 * (128 * 2 + 8)
    assert METAL.attention(of(gqa_factor=8), None, 8, 4096, 2) >= 8 * 4096 * 16 * 2


def test_a_window_on_metal_has_a_mask_and_no_scores() -> None:
    mask = 512 * (1024 + 511)
    assert mask <= METAL.attention(of(), 1024, 512, 9000, 2) <= 3 * mask
    assert METAL.attention(of(256), 1024, 512, 9000, 2) >= mask * 8 * 2


def test_a_decoding_step_on_metal_has_scores_where_the_cache_is_quantized() -> None:
    scores = 8 * 32768 * 2
    assert METAL.decode_attention(of(), 32768, 2, None) < 16 * 8 * 512 * (128 * 2 + 8) + 1
    assert METAL.decode_attention(of(), 32768, 2, 8) >= 16 * scores
    assert METAL.decode_attention(of(80), 32768, 2, None) >= 16 * scores


@pytest.mark.parametrize(
    ("layer_bytes", "n_layers", "factor"),
    [
        pytest.param(1 << 20, 32, 32, id="small: all layers"),
        pytest.param(1 << 40, 32, 4, id="large: 12 command buffers, 3 of a layer"),
    ],
)
def test_metal_holds_several_layers(layer_bytes: int, n_layers: int, factor: int) -> None:
    config = tiny_config(n_layers=n_layers)
    assert METAL.in_flight(config, layer_bytes, 2) == factor * layer_bytes
    assert UNFUSED.in_flight(config, layer_bytes, 2) == layer_bytes


def test_metal_holds_the_operands_of_twelve_command_buffers() -> None:
    config, layer = tiny_config(n_layers=100), 100 << 20
    in_flight = METAL.in_flight(config, layer, 2)
    assert 12 * (51 << 20) * 2 <= in_flight <= 12 * (51 << 20) * 2 + layer
