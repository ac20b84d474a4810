"""The demo model's architecture, as its config.json says it."""

from __future__ import annotations

from typing import Any

from mlx_mistral.config import ModelConfig

WINDOW = 48
CONFIG: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "model_type": "mixtral",
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "sliding_window": WINDOW,
    "vocab_size": 2304,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000.0,
    "max_position_embeddings": 32768,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "torch_dtype": "bfloat16",
}


def model_config() -> ModelConfig:
    """The same as a ModelConfig."""
    return ModelConfig.from_hf(CONFIG)
