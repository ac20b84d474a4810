"""config.json of the result, from what the model is and not from how its source said it.

So official and Hugging Face files of one model give the same folder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlx_mistral.config import ModelConfig, QuantConfig, YarnConfig
from mlx_mistral.errors import ConversionError

BOS, EOS = 1, 2
"""Of every tokenizer that Mistral has published."""
_CLASSES = {
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
}


def config_json(
    config: ModelConfig,
    *,
    quantization: QuantConfig | None,
    dtype: str,
    source: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `ModelConfig.from_hf` reads back as `config`, and mlx-lm as the same model.

    source: the source's own file, asked for the ids that begin and end a text alone.
    Raises: ConversionError: an architecture that a config.json cannot describe.
    """
    if len({width for width in config.windows if width is not None}) > 1:
        raise ConversionError(
            "windows of several widths in one model cannot be written to a config.json; "
            "this model can be run as it is, not converted"
        )
    # A model with windows in some layers only is one of mlx-lm's `mistral` too, not a type of
    # its own.
    model_type = "mistral" if config.family == "ministral" else config.family
    data: dict[str, Any] = {
        "model_type": model_type,
        "architectures": [_CLASSES[model_type]],
        "hidden_size": config.dim,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.hidden_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": "silu",
        "tie_word_embeddings": config.tied_embeddings,
        "sliding_window": config.sliding_window,
        "dtype": dtype,
        "torch_dtype": dtype,
        **_ids(source or {}),
        **_rope(config, model_type),
    }
    if config.max_context is not None:
        data["max_position_embeddings"] = config.max_context
    if config.moe:
        data["num_local_experts"] = config.moe.num_experts
        data["num_experts_per_tok"] = config.moe.num_experts_per_tok
    if len(set(config.windows)) > 1:
        data["layer_types"] = [
            "full_attention" if window is None else "sliding_attention" for window in config.windows
        ]
    if quantization is not None:
        data["quantization"] = data["quantization_config"] = quantization.to_json()
    return dict(sorted(data.items()))


def _ids(source: Mapping[str, Any]) -> dict[str, Any]:
    """Fine-tuned models may end their replies otherwise."""
    inner = source.get("text_config")
    texts = [source, inner] if isinstance(inner, Mapping) else [source]
    found = {"bos_token_id": BOS, "eos_token_id": EOS}
    for key in found:
        for text in texts:
            if _is_ids(text.get(key)):
                found[key] = text[key]
    return found


def _is_ids(value: object) -> bool:
    items = value if isinstance(value, list) and 0 < len(value) <= 64 else [value]
    return all(type(item) is int and 0 <= item < 1 << 31 for item in items)


def _rope(config: ModelConfig, model_type: str) -> dict[str, Any]:
    """The base on top, where mlx-lm's `mistral` looks for it, and YaRN in the type's own place."""
    scaling, yarn = config.query_scaling, config.yarn
    if scaling and (yarn is None or yarn.original_context != scaling.original_context):
        raise ConversionError(
            "queries scaled by another context than YaRN's cannot be written to a config.json; "
            "this model can be run as it is, not converted"
        )
    top = {"rope_theta": config.rope_theta}
    if yarn is None:
        # For ministral3 an absent block would mean the YaRN that transformers has by default.
        plain = {"rope_parameters": {**top, "rope_type": "default"}}
        return {**top, **(plain if model_type == "ministral3" else {})}
    block = {**top, **_yarn(yarn)}
    if scaling or model_type == "ministral3":
        # mlx-lm asks for it; 0 scales nothing.
        block["llama_4_scaling_beta"] = scaling.beta if scaling else 0.0
        return {**top, "rope_parameters": block}
    return {**top, "rope_scaling": block}


def _yarn(yarn: YarnConfig) -> dict[str, Any]:
    return {
        "rope_type": "yarn",
        "type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_context,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "attention_factor": yarn.attention_factor,
        "mscale": _mscale(yarn),
        "mscale_all_dim": 1.0,
    }


def _mscale(yarn: YarnConfig) -> float:
    """The attention factor as mlx-lm takes it: (0.1 m ln f + 1) / (0.1 ln f + 1)."""
    if yarn.factor <= 1:
        return 1.0
    slope = 0.1 * math.log(yarn.factor)
    return (yarn.attention_factor * (slope + 1) - 1) / slope
