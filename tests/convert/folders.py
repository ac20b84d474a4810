"""Tiny models of every family as Hugging Face folders, wide enough for every group size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten
from tiny import tiny_model

from mlx_mistral.config import ModelConfig

BASE: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 128,
    "vocab_size": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
YARN: dict[str, Any] = {
    "rope_type": "yarn",
    "rope_theta": 1e3,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {},
    "nemo": {"head_dim": 64},
    "mixtral": {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": {
        "model_type": "ministral",
        "num_hidden_layers": 4,
        "sliding_window": 6,
        "layer_types": ["full_attention", *["sliding_attention"] * 3],
    },
    "ministral3": {
        "model_type": "ministral3",
        "rope_parameters": YARN,
        "tie_word_embeddings": True,
    },
    "devstral2": {
        "model_type": "ministral3",
        "rope_parameters": {**YARN, "mscale_all_dim": 0.0, "llama_4_scaling_beta": 0.0},
    },
}


def hf_config(family: str, **changes: Any) -> dict[str, Any]:
    config = {**BASE, **FAMILIES[family], **changes}
    if "rope_parameters" in config:
        del config["rope_theta"]
    return config


def write_family(
    folder: Path, family: str, *, dtype: mx.Dtype = mx.bfloat16, **changes: Any
) -> Path:
    """A random model with the names of an unquantized MLX folder."""
    folder.mkdir(parents=True)
    config = hf_config(family, **changes)
    (folder / "config.json").write_text(json.dumps(config))
    model = tiny_model(ModelConfig.from_hf(config))
    weights = {name: array.astype(dtype) for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def left_behind(dest: Path) -> list[str]:
    """What lies beside DEST that belongs to its conversion."""
    return sorted(path.name for path in dest.parent.glob(f".{dest.name}.*"))
