"""The quantization block, as mlx-lm writes it."""

from __future__ import annotations

import pytest

from mlx_mistral.config import QuantConfig, QuantParams


def test_a_block_with_overrides_reads_and_writes_back() -> None:
    block = {
        "group_size": 64,
        "bits": 4,
        "mode": "affine",
        "lm_head": {"group_size": 32, "bits": 8, "mode": "affine"},
        "model.embed_tokens": False,
    }
    config = QuantConfig.from_json(block)
    assert config.for_path("model.layers.0.mlp.up_proj") == QuantParams(group_size=64, bits=4)
    assert config.for_path("lm_head") == QuantParams(group_size=32, bits=8)
    assert config.for_path("model.embed_tokens") is None
    assert config.to_json() == block


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "per_weight"),
    [("mxfp4", 4, 32, 4.25), ("nvfp4", 4, 16, 4.5), ("mxfp8", 8, 32, 8.25), ("affine", 4, 64, 4.5)],
)
def test_a_mode_knows_its_bits(mode: str, bits: int, group_size: int, per_weight: float) -> None:
    params = QuantConfig.from_json({"mode": mode}).default
    assert params == QuantParams(group_size=group_size, bits=bits, mode=mode)
    assert params.bits_per_weight == per_weight


def test_an_override_that_says_true_uses_the_default() -> None:
    config = QuantConfig.from_json({"bits": 8, "group_size": 64, "lm_head": True})
    assert config.for_path("lm_head") == QuantParams(group_size=64, bits=8)
