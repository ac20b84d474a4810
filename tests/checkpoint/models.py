"""A tiny model's numbers, and the same numbers written in every layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoint.writers import write_json, write_safetensors

LAYERS, DIM, HEADS, KV_HEADS, HEAD_DIM, HIDDEN, VOCAB, EXPERTS = 2, 64, 4, 2, 16, 96, 80, 4

HF_CONFIG: dict[str, Any] = {
    "model_type": "mistral",
    "hidden_size": DIM,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "intermediate_size": HIDDEN,
    "vocab_size": VOCAB,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "sliding_window": None,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
HF_MOE = {
    **HF_CONFIG,
    "model_type": "mixtral",
    "num_local_experts": EXPERTS,
    "num_experts_per_tok": 2,
}
PARAMS: dict[str, Any] = {
    "dim": DIM,
    "n_layers": LAYERS,
    "n_heads": HEADS,
    "n_kv_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "hidden_dim": HIDDEN,
    "vocab_size": VOCAB,
    "norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_seq_len": 256,
}
PARAMS_MOE = {**PARAMS, "moe": {"num_experts": EXPERTS, "num_experts_per_tok": 2}}

Weights = dict[str, np.ndarray]


def hf_weights(*, moe: bool = False, seed: int = 0) -> Weights:
    """Random float32 weights with the names and shapes of a Hugging Face checkpoint."""
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.1).astype(np.float32)

    weights = {
        "model.embed_tokens.weight": matrix(VOCAB, DIM),
        "model.norm.weight": 1 + matrix(DIM),
        "lm_head.weight": matrix(VOCAB, DIM),
    }
    for n in range(LAYERS):
        layer = f"model.layers.{n}"
        weights |= {
            f"{layer}.self_attn.q_proj.weight": matrix(HEADS * HEAD_DIM, DIM),
            f"{layer}.self_attn.k_proj.weight": matrix(KV_HEADS * HEAD_DIM, DIM),
            f"{layer}.self_attn.v_proj.weight": matrix(KV_HEADS * HEAD_DIM, DIM),
            f"{layer}.self_attn.o_proj.weight": matrix(DIM, HEADS * HEAD_DIM),
            f"{layer}.input_layernorm.weight": 1 + matrix(DIM),
            f"{layer}.post_attention_layernorm.weight": 1 + matrix(DIM),
        }
        blocks = [f"{layer}.block_sparse_moe.experts.{e}" for e in range(EXPERTS)]
        names = ("w1", "w2", "w3") if moe else ("gate_proj", "down_proj", "up_proj")
        for block in blocks if moe else [f"{layer}.mlp"]:
            for name, shape in zip(
                names, [(HIDDEN, DIM), (DIM, HIDDEN), (HIDDEN, DIM)], strict=True
            ):
                weights[f"{block}.{name}.weight"] = matrix(*shape)
        if moe:
            weights[f"{layer}.block_sparse_moe.gate.weight"] = matrix(EXPERTS, DIM)
    return weights


OFFICIAL = [
    ("model.embed_tokens", "tok_embeddings"),
    ("model.layers", "layers"),
    ("model.norm", "norm"),
    ("lm_head", "output"),
    ("self_attn.q_proj", "attention.wq"),
    ("self_attn.k_proj", "attention.wk"),
    ("self_attn.v_proj", "attention.wv"),
    ("self_attn.o_proj", "attention.wo"),
    ("mlp.gate_proj", "feed_forward.w1"),
    ("mlp.down_proj", "feed_forward.w2"),
    ("mlp.up_proj", "feed_forward.w3"),
    ("block_sparse_moe", "feed_forward"),
    ("input_layernorm", "attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
]


def official_weights(weights: Weights) -> Weights:
    """The same numbers as Mistral names and orders them."""
    out = {}
    for name, array in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            array = pair_rows(array)
        for theirs, ours in OFFICIAL:
            name = name.replace(theirs, ours)
        out[name] = array
    return out


def pair_rows(array: np.ndarray) -> np.ndarray:
    """Row i of a head's first half goes to 2i, row i of its second half to 2i + 1."""
    out = np.empty_like(array)
    for row in range(array.shape[0]):
        head, i = divmod(row, HEAD_DIM)
        half, pair = divmod(i, HEAD_DIM // 2)
        out[head * HEAD_DIM + 2 * pair + half] = array[row]
    return out


def old_mixtral_weights(weights: Weights) -> Weights:
    """The first release's layout: each layer's experts in one matrix, w2 transposed."""
    out = {}
    for name, array in official_weights(weights).items():
        if ".experts." not in name:
            out[name.replace("feed_forward.gate", "block_sparse_moe.gate")] = array
    for n in range(LAYERS):
        for matrix in ("w1", "w2", "w3"):
            blocks = [
                weights[f"model.layers.{n}.block_sparse_moe.experts.{e}.{matrix}.weight"]
                for e in range(EXPERTS)
            ]
            blocks = [block.T if matrix == "w2" else block for block in blocks]
            out[f"layers.{n}.block_sparse_moe.{matrix}"] = np.concatenate(blocks)
    return out


def write_hf(folder: Path, weights: Weights, *, moe: bool = False, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {**(HF_MOE if moe else HF_CONFIG), **config})
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def write_sharded(folder: Path, weights: Weights, *, moe: bool = False) -> Path:
    """Hugging Face in three shards, the index beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", HF_MOE if moe else HF_CONFIG)
    names = sorted(weights)
    table = {}
    for part in range(3):
        file = f"model-{part + 1:05}-of-00003.safetensors"
        write_safetensors(folder / file, {name: weights[name] for name in names[part::3]})
        table |= dict.fromkeys(names[part::3], file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": table})
    return folder


def write_official(folder: Path, weights: Weights, *, moe: bool = False, **params: Any) -> Path:
    """Takes weights in official names already."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "params.json", {**(PARAMS_MOE if moe else PARAMS), **params})
    write_safetensors(folder / "consolidated.safetensors", weights)
    return folder
