"""config.json says of the result what the source said of itself, to us and to mlx-lm."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_mistral.config import ModelConfig, QuantConfig, QuantParams
from mlx_mistral.config.model import MoEConfig, QueryScaling, YarnConfig
from mlx_mistral.convert.config_json import config_json
from mlx_mistral.errors import ConversionError
from tests.checkpoint.models import PARAMS

small = st.integers(1, 1 << 20)
real = st.floats(1e-8, 1e8)


@st.composite
def yarns(draw: st.DrawFn) -> YarnConfig:
    factor = draw(st.floats(1, 256))
    attention = draw(st.sampled_from([1.0, YarnConfig.magnitude(factor), 1.25]))
    return YarnConfig(
        factor=factor,
        original_context=draw(small),
        beta_fast=draw(real),
        beta_slow=draw(real),
        attention_factor=attention,
    )


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Of every family, and of mixtures of their traits that no release has."""
    family = draw(st.sampled_from(["mistral", "mixtral", "ministral", "ministral3"]))
    n_layers, n_kv_heads = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    window = draw(st.one_of(st.none(), small))
    windows = tuple(draw(st.lists(st.sampled_from([None, window]), min_size=n_layers,
                                  max_size=n_layers)))  # fmt: skip
    yarn = draw(st.one_of(st.none(), yarns()))
    scaling = None
    if yarn and draw(st.booleans()):
        scaling = QueryScaling(beta=draw(real), original_context=yarn.original_context)
    experts = draw(st.integers(1, 16))
    return ModelConfig(
        family=family,
        dim=draw(small),
        n_layers=n_layers,
        n_heads=n_kv_heads * draw(st.integers(1, 4)),
        n_kv_heads=n_kv_heads,
        head_dim=2 * draw(st.integers(1, 128)),
        hidden_dim=draw(small),
        vocab_size=draw(small),
        norm_eps=draw(real),
        rope_theta=draw(real),
        windows=windows,
        max_context=draw(st.one_of(st.none(), small)),
        moe=MoEConfig(num_experts=experts, num_experts_per_tok=draw(st.integers(1, experts)))
        if family == "mixtral"
        else None,
        yarn=yarn,
        query_scaling=scaling,
        tied_embeddings=draw(st.booleans()),
    )


QUANTIZATION = QuantConfig(
    default=QuantParams(bits=4, group_size=64),
    overrides={
        "lm_head": QuantParams(bits=6, group_size=32),
        "model.layers.0.self_attn.v_proj": QuantParams(bits=4, group_size=32, mode="mxfp4"),
    },
)


@given(configs(), st.sampled_from([None, QUANTIZATION]))
def test_what_is_written_is_read_back(
    config: ModelConfig, quantization: QuantConfig | None
) -> None:
    """Windows in some layers make a model `mistral` for mlx-lm, which is all that may change."""
    made = json.loads(json.dumps(config_json(config, quantization=quantization, dtype="bfloat16")))
    family = "mistral" if config.family == "ministral" else config.family
    assert ModelConfig.from_hf(made) == replace(config, family=family, quantization=quantization)
    assert made["dtype"] == made["torch_dtype"] == "bfloat16"


def test_what_a_config_json_cannot_say_is_refused() -> None:
    config = ModelConfig.from_params({**PARAMS, "_sliding_window": [4, 8]})
    with pytest.raises(ConversionError, match="several widths"):
        config_json(config, quantization=None, dtype="bfloat16")
    yarn = {"factor": 4, "original_max_position_embeddings": 8, "beta": 4, "alpha": 1}
    scaling = {"beta": 0.5, "original_max_position_embeddings": 16}
    config = ModelConfig.from_params({**PARAMS, "yarn": yarn, "llama_4_scaling": scaling})
    with pytest.raises(ConversionError, match="another context than YaRN's"):
        config_json(config, quantization=None, dtype="bfloat16")


@pytest.mark.parametrize(
    ("source", "bos", "eos"),
    [
        ({}, 1, 2),
        ({"bos_token_id": 5, "eos_token_id": 7}, 5, 7),
        ({"eos_token_id": [2, 7, 11]}, 1, [2, 7, 11]),
        ({"text_config": {"eos_token_id": [2, 7]}}, 1, [2, 7]),
        ({"eos_token_id": 2, "text_config": {"eos_token_id": 7}}, 1, 7),
        ({"bos_token_id": None, "eos_token_id": None}, 1, 2),
        ({"bos_token_id": True, "eos_token_id": "</s>"}, 1, 2),
        ({"eos_token_id": -1}, 1, 2),
        ({"eos_token_id": []}, 1, 2),
        ({"eos_token_id": [2, "x"]}, 1, 2),
        ({"eos_token_id": [2] * 1000}, 1, 2),
        ({"text_config": [1, 2]}, 1, 2),
    ],
)
def test_ids_that_end_the_replies_of_a_fine_tune_are_kept(
    source: dict[str, Any], bos: Any, eos: Any
) -> None:
    config = ModelConfig.from_params(PARAMS)
    made = config_json(config, quantization=None, dtype="bfloat16", source=source)
    assert (made["bos_token_id"], made["eos_token_id"]) == (bos, eos)
