"""A Mistral model in plain NumPy, float64, one token after another: read it as the specification.

It shares no code with the package and knows no cache: attention is a loop over the keys that
a token may see. Weights are a dict from parameter names to arrays.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from mlx_mistral.config import ModelConfig

Weights = Mapping[str, np.ndarray]


def logits(config: ModelConfig, weights: Weights, tokens: list[int]) -> np.ndarray:
    """Shapes: T ids -> (T, vocab)."""
    x = weights["model.embed_tokens.weight"][tokens]
    for i, window in enumerate(config.windows):
        layer = {
            name.removeprefix(f"model.layers.{i}."): array
            for name, array in weights.items()
            if name.startswith(f"model.layers.{i}.")
        }
        h = rms_norm(x, layer["input_layernorm.weight"], config.norm_eps)
        x = x + attention(config, layer, h, window)
        h = rms_norm(x, layer["post_attention_layernorm.weight"], config.norm_eps)
        x = x + (mixture(config, layer, h) if config.moe else dense(layer, h))
    x = rms_norm(x, weights["model.norm.weight"], config.norm_eps)
    head = "model.embed_tokens.weight" if config.tied_embeddings else "lm_head.weight"
    return x @ weights[head].T


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def attention(config: ModelConfig, layer: Weights, x: np.ndarray, window: int | None) -> np.ndarray:
    """Shapes: (T, dim) -> (T, dim)."""
    n, dim = len(x), config.head_dim
    q = (x @ layer["self_attn.q_proj.weight"].T).reshape(n, config.n_heads, dim)
    k = (x @ layer["self_attn.k_proj.weight"].T).reshape(n, config.n_kv_heads, dim)
    v = (x @ layer["self_attn.v_proj.weight"].T).reshape(n, config.n_kv_heads, dim)
    for t in range(n):
        q[t], k[t] = rotate(config, q[t], t), rotate(config, k[t], t)
        if config.query_scaling:
            turns = t // config.query_scaling.original_context
            q[t] *= 1 + config.query_scaling.beta * np.log(1 + turns)
    shared = config.n_heads // config.n_kv_heads
    out = np.zeros((n, config.n_heads, dim))
    for t in range(n):
        first = 0 if window is None else max(0, t - window + 1)
        for head in range(config.n_heads):
            keys, values = k[first : t + 1, head // shared], v[first : t + 1, head // shared]
            out[t, head] = softmax(keys @ q[t, head] / np.sqrt(dim)) @ values
    return out.reshape(n, -1) @ layer["self_attn.o_proj.weight"].T


def rotate(config: ModelConfig, heads: np.ndarray, position: int) -> np.ndarray:
    """The two halves of each head are the real and imaginary parts. Shapes: (heads, D)."""
    half = config.head_dim // 2
    turned = (heads[:, :half] + 1j * heads[:, half:]) * np.exp(1j * position * frequencies(config))
    magnitude = config.yarn.attention_factor if config.yarn else 1.0
    return magnitude * np.concatenate([turned.real, turned.imag], axis=-1)


def frequencies(config: ModelConfig) -> np.ndarray:
    """Shapes: -> (D / 2,). YaRN: arXiv:2309.00071, section 3.2."""
    dim, theta = config.head_dim, config.rope_theta
    plain = theta ** (-np.arange(0, dim, 2) / dim)
    yarn = config.yarn
    if yarn is None:
        return plain
    # The dimension, not rounded, whose wave turns `beta` times within the original context.
    first, last = (
        dim * np.log(yarn.original_context / (beta * 2 * np.pi)) / (2 * np.log(theta))
        for beta in (yarn.beta_fast, yarn.beta_slow)
    )
    low, high = max(np.floor(first), 0), min(np.ceil(last), dim - 1)
    stretched = np.clip((np.arange(dim // 2) - low) / ((high - low) or 0.001), 0, 1)
    return plain * (1 - stretched) + plain / yarn.factor * stretched


def dense(layer: Weights, x: np.ndarray) -> np.ndarray:
    return swiglu(x, *(layer[f"mlp.{name}_proj.weight"] for name in ("gate", "up", "down")))


def mixture(config: ModelConfig, layer: Weights, x: np.ndarray) -> np.ndarray:
    """Shapes: (T, dim) -> (T, dim)."""
    assert config.moe
    experts = [
        layer[f"block_sparse_moe.switch_mlp.{n}_proj.weight"] for n in ("gate", "up", "down")
    ]
    scores = x @ layer["block_sparse_moe.gate.weight"].T
    out = np.zeros_like(x)
    for t in range(len(x)):
        chosen = np.argsort(scores[t])[-config.moe.num_experts_per_tok :]
        for expert, share in zip(chosen, softmax(scores[t, chosen]), strict=True):
            out[t] += share * swiglu(x[t], *(stack[expert] for stack in experts))
    return out


def swiglu(x: np.ndarray, gate: np.ndarray, up: np.ndarray, down: np.ndarray) -> np.ndarray:
    g = x @ gate.T
    return (g / (1 + np.exp(-g)) * (x @ up.T)) @ down.T


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()
