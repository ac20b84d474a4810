"""Every supported model, from both of its descriptions, gives the numbers that are published.

Sources: the checkpoints' own params.json and config.json files, Mistral's model pages.
"""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mistral.config import ModelConfig, MoEConfig, QueryScaling, YarnConfig
from mlx_mistral.errors import ConfigError

L4 = {"beta": 0.1, "original_max_position_embeddings": 16384}
YARN = {
    "original_max_position_embeddings": 16384, "factor": 16, "apply_scale": False,
    "beta": 32, "alpha": 1,
}  # fmt: skip
EIGHT = {"num_experts_per_tok": 2, "num_experts": 8}


def params(
    dim: int, n_layers: int, n_heads: int, hidden_dim: int, vocab_size: int, **more: Any
) -> dict[str, Any]:
    return {
        "dim": dim, "n_layers": n_layers, "head_dim": 128, "hidden_dim": hidden_dim,
        "n_heads": n_heads, "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": vocab_size, **more,
    }  # fmt: skip


PARAMS: dict[str, dict[str, Any]] = {
    "7b-v0.1": params(4096, 32, 32, 14336, 32000, sliding_window=4096),
    "7b-v0.2": params(4096, 32, 32, 14336, 32000, rope_theta=1e6),
    "7b-v0.3": params(4096, 32, 32, 14336, 32768, rope_theta=1e6),
    "mathstral": params(4096, 32, 32, 14336, 32768, rope_theta=1e6),
    "8x7b": params(4096, 32, 32, 14336, 32000, moe=EIGHT),
    "8x22b": params(6144, 56, 48, 16384, 32768, rope_theta=1e6, moe=EIGHT, max_seq_len=65536),
    "nemo": params(5120, 40, 32, 14336, 131072, rope_theta=1e6),
    "codestral": params(6144, 56, 48, 16384, 32768, rope_theta=1e6),
    "large-2": params(12288, 88, 96, 28672, 32768, rope_theta=1e6),
    "small-22b": params(6144, 56, 48, 16384, 32768, rope_theta=1e6),
    "ministral-8b": params(
        4096, 36, 32, 12288, 131072, rope_theta=1e8, max_seq_len=32768,
        _sliding_window=[None, 32768, 32768, 32768],
    ),
    "small-3": params(5120, 40, 32, 32768, 131072, rope_theta=1e8, max_position_embeddings=32768),
    "small-3.1": params(
        5120, 40, 32, 32768, 131072, rope_theta=1e9, max_position_embeddings=131072,
        vision_encoder={"hidden_size": 1024},
    ),
    "pixtral-12b": params(
        5120, 40, 32, 14336, 131072, rope_theta=1e9, vision_encoder={"hidden_size": 1024}
    ),
    "ministral-3-3b": params(
        3072, 26, 32, 9216, 131072, rope_theta=1e6, tied_embeddings=True, yarn=YARN,
        llama_4_scaling=L4, max_position_embeddings=262144,
        quantization={"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"},
    ),
    "devstral-2": params(
        12288, 88, 96, 28672, 131072, rope_theta=1e6, max_position_embeddings=262144,
        tied_embeddings=False, q_lora_rank=None, kv_lora_rank=None, qk_nope_head_dim=None,
        qk_rope_head_dim=None, v_head_dim=None,
        yarn={"original_max_position_embeddings": 4096, "factor": 64, "apply_scale": True,
              "beta": 4, "alpha": 1},
    ),
}  # fmt: skip


def hf(model_type: str, p: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "model_type": model_type, "architectures": ["X"], "hidden_size": p["dim"],
        "num_hidden_layers": p["n_layers"], "num_attention_heads": p["n_heads"],
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": p["hidden_dim"],
        "vocab_size": p["vocab_size"], "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, **more,
    }  # fmt: skip


def wrapped(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "mistral3", "architectures": ["Mistral3ForConditionalGeneration"],
        "tie_word_embeddings": True, "text_config": text, "image_token_index": 10,
        "spatial_merge_size": 2, "vision_config": {"model_type": "pixtral"},
    }  # fmt: skip


def yarn_rope(theta: float, factor: float, original: int, **more: Any) -> dict[str, Any]:
    return {
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": theta, "factor": factor, "beta_fast": 32.0,
            "beta_slow": 1.0, "original_max_position_embeddings": original, "mscale": 1.0,
            "mscale_all_dim": 1.0, **more,
        }
    }  # fmt: skip


P = PARAMS
HF: dict[str, dict[str, Any]] = {
    # The oldest files spell neither head_dim nor a null.
    "7b-v0.1": {
        **hf("mistral", P["7b-v0.1"], rope_theta=1e4, sliding_window=4096), "head_dim": None,
    },
    "7b-v0.2": hf("mistral", P["7b-v0.2"], rope_theta=1e6, sliding_window=None),
    "7b-v0.3": hf("mistral", P["7b-v0.3"], rope_theta=1e6, sliding_window=None),
    "mathstral": hf("mistral", P["mathstral"], rope_theta=1e6, sliding_window=None),
    "8x7b": hf("mixtral", P["8x7b"], num_local_experts=8, rope_theta=1e6, sliding_window=None,
               num_experts_per_tok=2, router_aux_loss_coef=0.02, output_router_logits=False),
    "8x22b": hf("mixtral", P["8x22b"], num_local_experts=8, num_experts_per_tok=2,
                max_position_embeddings=65536),
    "nemo": hf("mistral", P["nemo"], rope_theta=1e6, sliding_window=None),
    "codestral": hf("mistral", P["codestral"], rope_theta=1e6, sliding_window=None),
    "large-2": hf("mistral", P["large-2"], rope_theta=1e6, sliding_window=None),
    "small-22b": hf("mistral", P["small-22b"], sliding_window=None,
                    rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "ministral-8b": hf("ministral", P["ministral-8b"], rope_theta=1e8, sliding_window=32768,
                       layer_types=["full_attention", *["sliding_attention"] * 3] * 9,
                       max_position_embeddings=32768),
    "small-3": hf("mistral", P["small-3"], rope_theta=1e8, sliding_window=None,
                  max_position_embeddings=32768),
    "small-3.1": wrapped(hf("mistral", P["small-3.1"], rope_theta=1e9, sliding_window=None,
                            max_position_embeddings=131072)),
    "ministral-3-3b": wrapped({
        **hf("ministral3", P["ministral-3-3b"], max_position_embeddings=262144,
             **yarn_rope(1e6, 16.0, 16384, llama_4_scaling_beta=0.1)),
        "tie_word_embeddings": True,
    }),
    "devstral-2": hf("ministral3", P["devstral-2"], max_position_embeddings=262144,
                     quantization_config={"quant_method": "fp8"},
                     **yarn_rope(1e6, 64.0, 4096, beta_fast=4.0, mscale_all_dim=0.0)),
}  # fmt: skip


@pytest.mark.parametrize("name", PARAMS)
def test_params_json_gives_the_published_numbers(name: str) -> None:
    config, given = ModelConfig.from_params(PARAMS[name]), PARAMS[name]
    assert (config.dim, config.n_layers, config.n_heads) == tuple(
        given[key] for key in ("dim", "n_layers", "n_heads")
    )
    assert (config.n_kv_heads, config.head_dim, config.norm_eps) == (8, 128, 1e-5)
    assert (config.hidden_dim, config.vocab_size) == (given["hidden_dim"], given["vocab_size"])


@pytest.mark.parametrize("name", HF)
def test_both_descriptions_of_a_model_agree(name: str) -> None:
    """Except that a Hugging Face file may know the context where params.json is silent."""
    official, other = ModelConfig.from_params(PARAMS[name]), ModelConfig.from_hf(HF[name])
    for field in official.__dataclass_fields__:
        if field == "max_context" and official.max_context is None:
            continue
        assert getattr(official, field) == getattr(other, field), field


@pytest.mark.parametrize(
    ("name", "theta"),
    [("7b-v0.1", 1e4), ("8x7b", 1e6), ("7b-v0.3", 1e6), ("ministral-8b", 1e8), ("small-3.1", 1e9)],
)
def test_theta_is_read_or_known_from_the_window(name: str, theta: float) -> None:
    assert ModelConfig.from_params(PARAMS[name]).rope_theta == theta


def test_windows_are_per_layer() -> None:
    assert ModelConfig.from_params(PARAMS["7b-v0.1"]).windows == (4096,) * 32
    assert ModelConfig.from_params(PARAMS["7b-v0.3"]).windows == (None,) * 32
    ministral = ModelConfig.from_params(PARAMS["ministral-8b"])
    assert ministral.windows == (None, 32768, 32768, 32768) * 9
    assert ministral.sliding_window == 32768
    assert not ministral.is_windowed


def test_the_special_parts_are_read() -> None:
    assert ModelConfig.from_params(PARAMS["8x7b"]).moe == MoEConfig(
        num_experts=8, num_experts_per_tok=2
    )
    small = ModelConfig.from_params(PARAMS["ministral-3-3b"])
    assert small.yarn == YarnConfig(factor=16.0, original_context=16384)
    assert small.query_scaling == QueryScaling(beta=0.1, original_context=16384)
    assert small.tied_embeddings
    large = ModelConfig.from_params(PARAMS["devstral-2"])
    assert large.yarn is not None
    assert large.yarn.attention_factor == pytest.approx(1.41589, abs=1e-5)
    assert large.query_scaling is None


@pytest.mark.parametrize("key", ["sliding_window", "_sliding_window"])
@pytest.mark.parametrize("value", [4096, "4096", [4096], [4096, 4096]])
def test_both_spellings_and_every_form_of_a_window_are_read(key: str, value: object) -> None:
    given = {**PARAMS["7b-v0.3"], key: value}
    assert ModelConfig.from_params(given).windows == (4096,) * 32


def test_an_absent_window_differs_from_a_null_one() -> None:
    absent = {k: v for k, v in HF["7b-v0.3"].items() if k != "sliding_window"}
    assert ModelConfig.from_hf(absent).windows == (4096,) * 32
    assert ModelConfig.from_hf(HF["7b-v0.3"]).windows == (None,) * 32
    mixtral = {k: v for k, v in HF["8x7b"].items() if k != "sliding_window"}
    assert ModelConfig.from_hf(mixtral).windows == (None,) * 32


def test_absent_keys_mean_what_their_model_type_says() -> None:
    bare = {k: v for k, v in HF["7b-v0.1"].items() if k not in ("rope_theta", "rms_norm_eps")}
    assert ModelConfig.from_hf(bare).rope_theta == 1e4
    assert ModelConfig.from_hf(bare).norm_eps == 1e-6
    assert ModelConfig.from_hf(HF["8x22b"]).rope_theta == 1e6


def test_older_files_put_yarn_beside_theta() -> None:
    given = HF["devstral-2"]
    rope = dict(given["rope_parameters"])
    theta = rope.pop("rope_theta")
    older = {k: v for k, v in given.items() if k != "rope_parameters"}
    older |= {"rope_theta": theta, "rope_scaling": {**rope, "type": rope.pop("rope_type")}}
    assert ModelConfig.from_hf(older) == ModelConfig.from_hf(given)


@pytest.mark.parametrize(
    "more",
    [
        {"kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128},
        {"v_head_dim": 128},
    ],
)
def test_latent_attention_is_refused_by_name(more: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Mistral Large 3, Mistral Small 4"):
        ModelConfig.from_params({**PARAMS["7b-v0.3"], **more})


@pytest.mark.parametrize("model_type", ["mistral4", "mistral_large3"])
def test_latent_attention_is_refused_in_config_json_too(model_type: str) -> None:
    with pytest.raises(ConfigError, match="latent attention"):
        ModelConfig.from_hf({**HF["7b-v0.3"], "model_type": model_type})
    with pytest.raises(ConfigError, match="latent attention"):
        ModelConfig.from_hf(wrapped({**HF["7b-v0.3"], "model_type": model_type}))


BAD_PARAMS: list[tuple[dict[str, Any], str]] = [
    ({"rope_kind": "spiral"}, "unknown key 'rope_kind'"),
    ({"n_heads": 0}, "n_heads"),
    ({"n_heads": -32}, "n_heads"),
    ({"n_heads": "32"}, "an integer is expected"),
    ({"n_heads": True}, "an integer is expected"),
    ({"n_heads": 33}, "multiple of n_kv_heads"),
    ({"dim": 1 << 40}, "dim is"),
    ({"dim": 1.5}, "an integer is expected"),
    ({"head_dim": 127}, "even"),
    ({"norm_eps": 0}, "above zero"),
    ({"norm_eps": float("nan")}, "finite"),
    ({"rope_theta": 10**400}, "finite"),
    ({"sliding_window": 0}, "sliding_window"),
    ({"sliding_window": "many"}, "an integer is expected"),
    ({"sliding_window": [None] * 5}, "does not divide"),
    ({"sliding_window": []}, "does not divide"),
    ({"sliding_window": 3, "_sliding_window": 4}, "both"),
    ({"moe": 8}, "a JSON object is expected"),
    ({"moe": {"num_experts": 8}}, "num_experts_per_tok"),
    ({"moe": {"num_experts": 2, "num_experts_per_tok": 3}}, "3 of 2 experts"),
    ({"moe": {**EIGHT, "num_shared_experts": 1}}, "num_shared_experts"),
    ({"moe": {**EIGHT, "gate_kind": "sigmoid"}}, "unknown key 'gate_kind'"),
    ({"yarn": {"factor": 4}}, "original_max_position_embeddings"),
    ({"yarn": {**YARN, "apply_scale": "no"}}, "true or false"),
    ({"use_biases": True}, "use_biases"),
]


@pytest.mark.parametrize(("change", "message"), BAD_PARAMS, ids=lambda v: str(v)[:40])
def test_what_cannot_be_right_in_params_json_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_params({**PARAMS["7b-v0.3"], **change})


BAD_HF: list[tuple[dict[str, Any], str]] = [
    ({"model_type": "llama"}, "'llama' is not a Mistral text model"),
    ({"model_type": ["mistral"]}, "not a Mistral text model"),
    ({"hidden_act": "gelu"}, "hidden_act"),
    ({"attention_bias": True}, "attention_bias"),
    ({"layer_types": ["full_attention"]}, "layer_types"),
    ({"layer_types": ["linear"] * 32}, "unknown 'linear'"),
    ({"layer_types": ["sliding_attention"] * 32}, "asks for a window"),
    ({"rope_scaling": {"type": "ntk", "factor": 2}}, "rope type 'ntk'"),
    ({"rope_parameters": [1]}, "a JSON object is expected"),
    ({"qk_norm": True}, "unknown key 'qk_norm'"),
    ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "'gptq'"),
    ({"quantization": {"bits": 7, "group_size": 64}}, "7 bits"),
    ({"quantization": {"bits": 4, "group_size": 48}}, "groups of 48"),
    ({"quantization": {"mode": "mxfp4", "bits": 8, "group_size": 32}}, "mxfp4 with 8 bits"),
    ({"quantization": {"mode": "q4_k"}}, "unknown mode 'q4_k'"),
    ({"quantization": 4}, "a JSON object is expected"),
    ({"quantization": {"model.lm": 3}}, "a JSON object is expected"),
    ({"num_hidden_layers": None}, "num_hidden_layers"),
]


@pytest.mark.parametrize(("change", "message"), BAD_HF, ids=lambda v: str(v)[:40])
def test_what_cannot_be_right_in_config_json_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_hf({**HF["7b-v0.3"], **change})


@pytest.mark.parametrize("read", [ModelConfig.from_params, ModelConfig.from_hf])
@pytest.mark.parametrize("data", [None, [], "x", 3, {}])
def test_what_is_no_configuration_is_told(read: Any, data: Any) -> None:
    with pytest.raises(ConfigError):
        read(data)


@pytest.mark.parametrize("key", [k for k in PARAMS["7b-v0.3"] if k != "rope_theta"])
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(ConfigError, match=f"no '{key}'"):
        ModelConfig.from_params({k: v for k, v in PARAMS["7b-v0.3"].items() if k != key})
