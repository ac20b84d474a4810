"""config.json: how Hugging Face and MLX folders describe a model.

Absent keys mean what the model type's own configuration class in transformers says they
mean, which is not always what null means: an absent `sliding_window` of a `mistral` is 4096.
Source: transformers, configuration_{mistral,mixtral,ministral,ministral3,mistral3}.py and
modeling_rope_utils.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_mistral.errors import ConfigError

from .fields import Fields, as_number
from .model import ModelConfig, MoEConfig, QueryScaling, YarnConfig
from .quantization import QuantConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class _Defaults:
    """What a model type means by leaving a key out."""

    sliding_window: int | None
    norm_eps: float
    rope_theta: float
    head_dim: int | None = None


_TYPES: Mapping[str, _Defaults] = {
    "mistral": _Defaults(sliding_window=4096, norm_eps=1e-6, rope_theta=1e4),
    "mixtral": _Defaults(sliding_window=None, norm_eps=1e-5, rope_theta=1e6),
    "ministral": _Defaults(sliding_window=4096, norm_eps=1e-6, rope_theta=1e4),
    "ministral3": _Defaults(sliding_window=None, norm_eps=1e-5, rope_theta=1e6, head_dim=128),
}
_WRAPPERS = ("mistral3", "pixtral", "llava")
_MLA = {"mistral4": "Mistral Small 4", "mistral_large3": "Mistral Large 3",
        "mistral_large4": "Mistral Large 4"}  # fmt: skip

# Bookkeeping, training-time settings and ids that the tokenizer owns.
_HARMLESS = (
    "_name_or_path", "architectures", "auto_map", "bos_token_id", "eos_token_id", "pad_token_id",
    "unk_token_id", "sep_token_id", "decoder_start_token_id", "dtype", "torch_dtype",
    "transformers_version", "use_cache", "initializer_range", "attention_dropout",
    "output_router_logits", "router_aux_loss_coef", "router_jitter_noise", "model_type",
    "return_dict", "output_attentions", "output_hidden_states", "use_return_dict",
    "chunk_size_feed_forward", "finetuning_task", "id2label", "label2id", "is_decoder",
    "is_encoder_decoder", "add_cross_attention", "cross_attention_hidden_size", "problem_type",
    "task_specific_params", "torchscript", "use_bfloat16", "pruned_heads", "prefix",
    "tokenizer_class", "tie_encoder_decoder", "tf_legacy_loss", "pretraining_tp", "unsloth_version",
    "unsloth_fixed", "use_sliding_window", "max_window_layers", "cache_implementation",
    "_attn_implementation", "_attn_implementation_autoset", "gradient_checkpointing", "license",
    "early_stopping", "max_length", "min_length", "do_sample", "num_beams", "temperature", "top_k",
    "top_p", "typical_p", "repetition_penalty", "length_penalty", "no_repeat_ngram_size",
    "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences", "output_scores",
    "return_dict_in_generate", "forced_bos_token_id", "forced_eos_token_id", "num_beam_groups",
    "diversity_penalty", "remove_invalid_values", "exponential_decay_length_penalty",
    "suppress_tokens", "begin_suppress_tokens",
)  # fmt: skip


def read_config(data: Mapping[str, Any]) -> ModelConfig:
    """Raises: ConfigError: a key is missing, malformed, unknown, or asks for the unsupported."""
    fields = Fields(data, "config.json")
    model_type = fields.take("model_type")
    if isinstance(model_type, str) and model_type in _WRAPPERS and "text_config" in fields:
        quantization = _read_quantization(fields)
        text = Fields(fields.take("text_config"), "config.json: text_config")
        # The wrapper's other keys describe the vision tower and the projector.
        text_type = text.take("model_type", "mistral")
        inner = _read_quantization(text)
        return _read_text(text, text_type, quantization or inner)
    return _read_text(fields, model_type, _read_quantization(fields))


def _read_text(fields: Fields, model_type: object, quantization: QuantConfig | None) -> ModelConfig:
    defaults = _TYPES.get(model_type) if isinstance(model_type, str) else None
    if defaults is None or not isinstance(model_type, str):
        raise _unsupported(model_type, fields)
    n_layers, n_heads = fields.integer("num_hidden_layers"), fields.integer("num_attention_heads")
    dim = fields.integer("hidden_size")
    rope = _read_rope(fields, model_type, defaults)
    config = ModelConfig(
        family=model_type,
        dim=dim,
        n_layers=n_layers,
        n_heads=n_heads,
        n_kv_heads=fields.integer("num_key_value_heads", n_heads),
        head_dim=fields.integer("head_dim", defaults.head_dim or dim // n_heads),
        hidden_dim=fields.integer("intermediate_size"),
        vocab_size=fields.integer("vocab_size"),
        norm_eps=fields.number("rms_norm_eps", defaults.norm_eps),
        rope_theta=rope.theta,
        windows=_read_windows(fields, n_layers, defaults),
        max_context=fields.integer("max_position_embeddings", None),
        moe=_read_moe(fields) if model_type == "mixtral" else None,
        yarn=rope.yarn,
        query_scaling=rope.query_scaling,
        tied_embeddings=fields.boolean("tie_word_embeddings", False),
        quantization=quantization,
    )
    fields.expect("hidden_act", "silu")
    fields.expect("attention_bias", False)
    fields.expect("mlp_bias", False)
    fields.expect("partial_rotary_factor", 1.0)
    fields.drop(_HARMLESS)
    fields.finish()
    return config


def _unsupported(model_type: object, fields: Fields) -> ConfigError:
    if fields.take("kv_lora_rank", None) is not None or str(model_type) in _MLA:
        name = _MLA.get(str(model_type), "Mistral Large 3, Mistral Small 4")
        return ConfigError(
            f"{fields.where} describes multi-head latent attention ({name}); "
            "this version runs grouped-query models only"
        )
    known = ", ".join([*_TYPES, *_WRAPPERS])
    return ConfigError(
        f"{fields.where}: model_type {model_type!r} is not a Mistral text model; known are {known}"
    )


def _read_windows(fields: Fields, n_layers: int, defaults: _Defaults) -> tuple[int | None, ...]:
    stated = "sliding_window" in fields
    window = fields.integer("sliding_window", None) if stated else defaults.sliding_window
    types = fields.take("layer_types", None)
    if types is None:
        return (window,) * n_layers
    if not isinstance(types, list) or len(types) != n_layers:
        raise ConfigError(f"{fields.where}: layer_types must name each of the {n_layers} layers")
    known = {"full_attention": None, "sliding_attention": window}
    if unknown := [kind for kind in types if not isinstance(kind, str) or kind not in known]:
        raise ConfigError(f"{fields.where}: layer_types holds the unknown {unknown[0]!r}")
    if window is None and "sliding_attention" in types:
        raise ConfigError(f"{fields.where}: layer_types asks for a window; sliding_window is null")
    return tuple(known[kind] for kind in types)


def _read_moe(fields: Fields) -> MoEConfig:
    spelled = "num_local_experts" if "num_local_experts" in fields else "num_experts"
    return MoEConfig(
        num_experts=fields.integer(spelled, 8),
        num_experts_per_tok=fields.integer("num_experts_per_tok", 2),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rope:
    theta: float
    yarn: YarnConfig | None = None
    query_scaling: QueryScaling | None = None


def _read_rope(fields: Fields, model_type: str, defaults: _Defaults) -> _Rope:
    """Both spellings: top-level `rope_theta` with `rope_scaling`, and nested `rope_parameters`."""
    top_theta = fields.number("rope_theta", None)
    scaling, nested = fields.nested("rope_scaling"), fields.nested("rope_parameters")
    block = nested if nested is not None else scaling
    if block is None:
        if model_type == "ministral3":
            return _MINISTRAL3_ROPE
        return _Rope(theta=defaults.rope_theta if top_theta is None else top_theta)
    theta = block.number("rope_theta", defaults.rope_theta if top_theta is None else top_theta)
    kind = block.take("rope_type", None) or block.take("type", None) or "default"
    block.drop(("type", "max_position_embeddings"))
    block.expect("partial_rotary_factor", 1.0)
    beta = block.take("llama_4_scaling_beta", None)
    if kind == "default":
        block.finish()
        return _Rope(theta=theta)
    if kind != "yarn":
        raise ConfigError(f"{block.where}: rope type {kind!r} is unknown; default and yarn are")
    yarn = _read_yarn(block)
    scaled = None
    if beta:
        scaled = QueryScaling(
            beta=as_number(beta, f"{block.where}: llama_4_scaling_beta"),
            original_context=yarn.original_context,
        )
    block.finish()
    return _Rope(theta=theta, yarn=yarn, query_scaling=scaled)


def _read_yarn(block: Fields) -> YarnConfig:
    factor = block.number("factor")
    stated = block.number("attention_factor", None)
    mscale, all_dim = block.take("mscale", None), block.take("mscale_all_dim", None)
    block.expect("truncate", True)
    return YarnConfig(
        factor=factor,
        original_context=block.integer("original_max_position_embeddings"),
        beta_fast=block.number("beta_fast", 32.0),
        beta_slow=block.number("beta_slow", 1.0),
        attention_factor=_attention_factor(factor, stated, mscale, all_dim, block.where),
    )


def _attention_factor(
    factor: float, stated: float | None, mscale: object, all_dim: object, where: str
) -> float:
    """The ratio of two magnitudes; with equal ones it is 1, the way to switch it off."""
    if stated is not None:
        return stated
    if not mscale or not all_dim or factor <= 1:
        return YarnConfig.magnitude(factor)
    over, under = as_number(mscale, f"{where}: mscale"), as_number(all_dim, f"{where}: mscale")
    return (0.1 * over * math.log(factor) + 1) / (0.1 * under * math.log(factor) + 1)


_MINISTRAL3_ROPE = _Rope(
    theta=1e6,
    yarn=YarnConfig(factor=16.0, original_context=16384),
    query_scaling=QueryScaling(beta=0.1, original_context=16384),
)


def _read_quantization(fields: Fields) -> QuantConfig | None:
    """MLX's block, if there is one. FP8 is recognised by its tensors, not here."""
    ours, theirs = fields.take("quantization", None), fields.take("quantization_config", None)
    if ours is not None:
        return QuantConfig.from_json(ours)
    if theirs is None:
        return None
    if isinstance(theirs, Mapping) and "group_size" in theirs and "quant_method" not in theirs:
        return QuantConfig.from_json(theirs)
    method = theirs.get("quant_method") if isinstance(theirs, Mapping) else theirs
    if method != "fp8":
        raise ConfigError(
            f"{fields.where}: weights quantized by {method!r} cannot be read; "
            "use the unquantized, FP8 or MLX folder of this model"
        )
    return None
