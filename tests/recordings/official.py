"""Write a Hugging Face folder's weights in Mistral's own layouts, with torch alone.

Official q and k rows pair neighbours (2i, 2i+1) for RoPE where Hugging Face pairs i with i + D/2;
everything else is a change of names. Source: mistral-inference, rope.py, moe.py and args.py.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]

PARTS = {
    "self_attn.q_proj": "attention.wq",
    "self_attn.k_proj": "attention.wk",
    "self_attn.v_proj": "attention.wv",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
    "block_sparse_moe": "feed_forward",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.embed_tokens": "tok_embeddings",
    "model.norm": "norm",
    "lm_head": "output",
}


def interleave(w: torch.Tensor, heads: int) -> torch.Tensor:
    """Hugging Face's half-split rows to Mistral's neighbouring pairs, one head at a time.

    Shapes: (heads * D, dim) -> the same. Row i of a head goes to 2i, row i + D/2 to 2i + 1.
    """
    head_dim = w.shape[0] // heads
    half = torch.arange(head_dim // 2)
    order = torch.stack([half, half + head_dim // 2], dim=1).flatten()
    return w.reshape(heads, head_dim, -1)[:, order].reshape(w.shape).contiguous()


def official_name(name: str) -> str:
    name = name.removeprefix("language_model.")
    for theirs, ours in PARTS.items():
        name = re.sub(rf"(^|\.){re.escape(theirs)}\b", rf"\g<1>{ours}", name)
    return name.removeprefix("model.")


def to_official(weights: Weights, heads: int, kv_heads: int) -> Weights:
    out = {}
    for name, w in weights.items():
        if name.startswith(("vision_tower", "multi_modal_projector")):
            continue
        if name.endswith("q_proj.weight"):
            w = interleave(w, heads)
        elif name.endswith("k_proj.weight"):
            w = interleave(w, kv_heads)
        out[official_name(name)] = w
    return out


def params(text: dict[str, Any], **extra: Any) -> dict[str, Any]:
    """params.json of a text configuration; keys that differ among models come from `extra`."""
    heads = text["num_attention_heads"]
    return {
        "dim": text["hidden_size"],
        "n_layers": text["num_hidden_layers"],
        "head_dim": text["head_dim"] or text["hidden_size"] // heads,
        "hidden_dim": text["intermediate_size"],
        "n_heads": heads,
        "n_kv_heads": text["num_key_value_heads"],
        "norm_eps": text["rms_norm_eps"],
        "vocab_size": text["vocab_size"],
        **extra,
    }


def yarn(text: dict[str, Any], apply_scale: bool) -> dict[str, Any]:
    rope = text["rope_parameters"]
    return {
        "original_max_position_embeddings": rope["original_max_position_embeddings"],
        "factor": int(rope["factor"]),
        "apply_scale": apply_scale,
        "beta": int(rope["beta_fast"]),
        "alpha": int(rope["beta_slow"]),
    }


def read(folder: Path) -> tuple[dict[str, Any], Weights]:
    """The text configuration of a Hugging Face folder and its weights under official names."""
    config = json.loads((folder / "config.json").read_text())
    text = config.get("text_config", config)
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    return text, to_official(load_file(folder / "model.safetensors"), heads, kv_heads)


def fresh(folder: Path, parameters: dict[str, Any]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "params.json").write_text(json.dumps(parameters, indent=2) + "\n")
    return folder


def write(folder: Path, parameters: dict[str, Any], weights: Weights) -> None:
    save_file(weights, fresh(folder, parameters) / "consolidated.safetensors")


def write_all(root: Path) -> None:
    text, weights = read(root / "mistral")
    write(root / "mistral-official", params(text, rope_theta=1e6), weights)

    # 7B v0.1 names no rope_theta: its window says 1e4. 8x7B names neither: 1e6.
    text, weights = read(root / "mistral-window")
    write(root / "mistral-window-official", params(text, sliding_window=8), weights)
    text, weights = read(root / "mixtral")
    parameters = params(text, moe={"num_experts_per_tok": 2, "num_experts": 8})
    write(root / "mixtral-official", parameters, weights)
    write_old_experts(root / "mixtral-official-old", parameters, weights)

    text, weights = read(root / "nemo")
    folder = fresh(root / "nemo-official-pth", params(text, rope_theta=1e6))
    torch.save(weights, folder / "consolidated.00.pth")

    text, weights = read(root / "ministral")
    pattern = {"_sliding_window": [None, 8, 8, 8], "max_seq_len": 512}
    write(root / "ministral-official", params(text, rope_theta=1e8, **pattern), weights)

    text, weights = read(root / "ministral3")
    scaling = {"original_max_position_embeddings": 16, "beta": 0.1}
    extra = {"yarn": yarn(text, False), "llama_4_scaling": scaling, "tied_embeddings": True}
    parameters = params(text, rope_theta=1e3, max_position_embeddings=512, **extra)
    write(root / "ministral3-official", parameters, weights)

    text, weights = read(root / "devstral2")
    extra = {"yarn": yarn(text, True), "tied_embeddings": False, "kv_lora_rank": None}
    parameters = params(text, rope_theta=1e2, max_position_embeddings=512, **extra)
    write(root / "devstral2-official", parameters, weights)
    _, weights = read(root / "devstral2-fp8")
    parameters["quantization"] = {"qformat_weight": "fp8_e4m3", "qscheme_act": "TENSOR"}
    write(root / "devstral2-fp8-official", parameters, official_scales(weights))

    text, weights = read(root / "mistral3")
    encoder = {"hidden_size": 16, "num_hidden_layers": 1, "patch_size": 4, "image_size": 8}
    parameters = params(text, rope_theta=1e9, vision_encoder=encoder)
    write(root / "mistral3-official", parameters, weights | vision_tensors())
    write_resaved(root / "mistral3", root / "mistral3-resaved")


def write_old_experts(folder: Path, parameters: dict[str, Any], weights: Weights) -> None:
    """The first Mixtral files: torch shards, experts stacked in rows, w2 transposed, no suffix."""
    old = {name: w for name, w in weights.items() if ".experts." not in name}
    for layer in range(parameters["n_layers"]):
        gate = old.pop(f"layers.{layer}.feed_forward.gate.weight")
        old[f"layers.{layer}.block_sparse_moe.gate.weight"] = gate
        for part in ("w1", "w2", "w3"):
            key = f"layers.{layer}.feed_forward.experts.{{}}.{part}.weight"
            blocks = [weights[key.format(expert)] for expert in range(gate.shape[0])]
            rows = torch.cat([b.T if part == "w2" else b for b in blocks]).contiguous()
            old[f"layers.{layer}.block_sparse_moe.{part}"] = rows
    fresh(folder, parameters)
    for shard in range(2):
        part = {name: old[name] for name in sorted(old)[shard::2]}
        torch.save(part, folder / f"consolidated.{shard:02d}.pt")


def write_resaved(source: Path, folder: Path) -> None:
    """The wrapper with the prefixes that transformers 5 uses in memory."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.npz", "model.*"))
    weights = {}
    for name, w in load_file(source / "model.safetensors").items():
        name = name.removeprefix("language_model.")
        inner = name.removeprefix("model.")
        prefix = "model.language_model." if inner != name else "model."
        weights[name if name == "lm_head.weight" else prefix + inner] = w
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def vision_tensors() -> Weights:
    names = (
        "vision_encoder.ln_pre.weight",
        "vision_encoder.transformer.layers.0.attention.wq.weight",
        "vision_language_adapter.w_in.weight",
        "patch_merger.merging_layer.weight",
        "pre_mm_projector_norm.weight",
    )
    return {name: torch.full((16,), 0.5, dtype=torch.bfloat16) for name in names}


def write_fp8(source: Path, folder: Path) -> Weights:
    """Store the linears in FP8 with one scale each; return the float32 weights that this means."""
    stored, meant = {}, {}
    for name, w in load_file(source / "model.safetensors").items():
        stored[name], meant[name] = w, w.float()
        if "_proj" not in name:
            continue
        scale = (w.float().abs().max() / 448).to(torch.bfloat16)
        stored[name] = (w.float() / scale.float()).to(torch.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = scale
        stored[name.replace(".weight", ".activation_scale")] = torch.tensor(0.03).bfloat16()
        meant[name] = stored[name].float() * scale.float()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "activation_scheme": "static",
        "dequantize": False,
        "modules_to_not_convert": ["lm_head"],
        "quant_method": "fp8",
        "weight_block_size": None,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    return meant


def official_scales(weights: Weights) -> Weights:
    """Rename the scales and add the cache scales that real files carry."""
    out = {}
    for name, w in weights.items():
        name = name.replace(".weight_scale_inv", ".qscale_weight")
        out[name.replace(".activation_scale", ".qscale_act")] = w
    out["layers.0.attention.k_fake_quantizer.qscale_act"] = torch.tensor(0.03).bfloat16()
    return out
