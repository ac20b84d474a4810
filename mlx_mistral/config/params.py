"""params.json: Mistral's own description of a model.

Source: mistral-inference, args.py and cache.py; key by key in the checkpoints themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlx_mistral.errors import ConfigError

from .fields import Fields, as_integer
from .model import ModelConfig, MoEConfig, QueryScaling, YarnConfig

# Say how the weights are stored, or describe another modality than text.
_HARMLESS = (
    "model_type", "quantization", "quantization_config", "vision_encoder", "multimodal",
    "max_batch_size", "torch_dtype", "dtype", "architectures", "bos_token_id", "eos_token_id",
)  # fmt: skip
_MLA = ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")


def read_params(data: Mapping[str, Any]) -> ModelConfig:
    """Raises: ConfigError: a key is missing, malformed, unknown, or asks for the unsupported."""
    fields = Fields(data, "params.json")
    _refuse_other_architectures(fields)
    n_layers = fields.integer("n_layers")
    windows = _read_windows(fields, n_layers)
    has_window = any(width is not None for width in windows)
    moe = _read_moe(fields)
    query_scaling = _read_query_scaling(fields)
    config = ModelConfig(
        family=_family(moe, query_scaling, windows, fields),
        dim=fields.integer("dim"),
        n_layers=n_layers,
        n_heads=fields.integer("n_heads"),
        n_kv_heads=fields.integer("n_kv_heads"),
        head_dim=fields.integer("head_dim"),
        hidden_dim=fields.integer("hidden_dim"),
        vocab_size=fields.integer("vocab_size"),
        norm_eps=fields.number("norm_eps"),
        # 7B v0.1 is the one windowed model whose file does not say; it was made with 1e4.
        rope_theta=fields.number("rope_theta", 1e4 if has_window else 1e6),
        windows=windows,
        max_context=_read_context(fields),
        moe=moe,
        yarn=_read_yarn(fields),
        query_scaling=query_scaling,
        tied_embeddings=fields.boolean("tied_embeddings", False),
    )
    fields.expect("use_biases", False)
    fields.drop(_HARMLESS)
    fields.finish()
    return config


def _refuse_other_architectures(fields: Fields) -> None:
    # Devstral 2 spells these out as null; any value is another attention.
    if any(fields.take(key, None) is not None for key in _MLA):
        raise ConfigError(
            "params.json describes multi-head latent attention (Mistral Large 3, Mistral Small 4); "
            "this version runs grouped-query models only"
        )
    if fields.take("model_type", None) == "mamba":
        raise ConfigError(
            "params.json describes a Mamba model; this version runs transformers only"
        )


def _family(
    moe: MoEConfig | None,
    query_scaling: QueryScaling | None,
    windows: tuple[int | None, ...],
    fields: Fields,
) -> str:
    if moe:
        return "mixtral"
    if query_scaling or "yarn" in fields:
        return "ministral3"
    return "ministral" if len(set(windows)) > 1 else "mistral"


def _read_windows(fields: Fields, n_layers: int) -> tuple[int | None, ...]:
    """An int for every layer, or a list that repeats over the layers."""
    plain, underscored = fields.take("sliding_window", None), fields.take("_sliding_window", None)
    if plain is not None and underscored is not None and plain != underscored:
        raise ConfigError("params.json sets both sliding_window and _sliding_window; keep one")
    value = underscored if plain is None else plain
    pattern = value if isinstance(value, list) else [value]
    if not pattern or n_layers % len(pattern):
        raise ConfigError(
            f"params.json: a window pattern of {len(pattern)} does not divide {n_layers} layers"
        )
    widths = [None if width is None else _window(width) for width in pattern]
    return tuple(widths * (n_layers // len(pattern)))


def _window(value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 12:
        value = int(value)
    return as_integer(value, "params.json: sliding_window")


def _read_moe(fields: Fields) -> MoEConfig | None:
    block = fields.nested("moe")
    if block is None:
        return None
    moe = MoEConfig(
        num_experts=block.integer("num_experts"),
        num_experts_per_tok=block.integer("num_experts_per_tok"),
    )
    # Later mixtures spell these out; Mixtral is the case where they say nothing new.
    block.expect("first_k_dense_replace", 0)
    block.expect("num_shared_experts", 0)
    block.expect("route_every_n", 1)
    block.expect("routed_scale", 1.0)
    block.expect("num_expert_groups", 1)
    block.expect("num_expert_groups_per_tok", 1)
    block.finish()
    return moe


def _read_context(fields: Fields) -> int | None:
    longest: int | None = fields.integer("max_position_embeddings", None)
    stated: int | None = fields.integer("max_seq_len", None)
    return longest if longest is not None else stated


def _read_yarn(fields: Fields) -> YarnConfig | None:
    block = fields.nested("yarn")
    if block is None:
        return None
    factor = block.number("factor")
    applies = block.boolean("apply_scale", True)
    yarn = YarnConfig(
        factor=factor,
        original_context=block.integer("original_max_position_embeddings"),
        beta_fast=block.number("beta", 32.0),
        beta_slow=block.number("alpha", 1.0),
        attention_factor=YarnConfig.magnitude(factor) if applies else 1.0,
    )
    block.finish()
    return yarn


def _read_query_scaling(fields: Fields) -> QueryScaling | None:
    block = fields.nested("llama_4_scaling")
    if block is None:
        return None
    scaling = QueryScaling(
        beta=block.number("beta"),
        original_context=block.integer("original_max_position_embeddings"),
    )
    block.finish()
    return scaling
