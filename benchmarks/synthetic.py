"""Random models of chosen shapes, in folders that this program and mlx-lm both load.

    python benchmarks/synthetic.py NAME FOLDER

Weights are drawn so that activations and logits stay of order 1, as in a trained model; what they
say is noise. Heads are `hidden_size / heads` wide, which mlx-lm's Mixtral takes for granted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

GROUP_SIZE = 64
SHARD_BYTES = 1 << 29


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A model's numbers; with experts it is a Mixtral whose tokens each meet two."""

    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    hidden_dim: int
    vocab_size: int
    experts: int = 0
    window: int | None = None

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    def config(self, bits: int | None) -> dict[str, Any]:
        """Its config.json."""
        config: dict[str, Any] = {
            "model_type": "mixtral" if self.experts else "mistral",
            "hidden_size": self.dim,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": self.n_heads,
            "num_key_value_heads": self.n_kv_heads,
            "head_dim": self.head_dim,
            "intermediate_size": self.hidden_dim,
            "vocab_size": self.vocab_size,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "sliding_window": self.window,
            "max_position_embeddings": 1 << 17,
            "tie_word_embeddings": False,
        }
        if self.experts:
            config |= {"num_local_experts": self.experts, "num_experts_per_tok": 2}
        if bits:
            config["quantization"] = {"group_size": GROUP_SIZE, "bits": bits}
        return config


SHAPES = {
    "mistral-demo": Shape(
        dim=128, n_layers=6, n_heads=4, n_kv_heads=2, hidden_dim=384, vocab_size=2304
    ),
    "mixtral-demo": Shape(
        dim=128, n_layers=6, n_heads=4, n_kv_heads=2, hidden_dim=128, vocab_size=2304, experts=8
    ),
    "window-demo": Shape(
        dim=128, n_layers=6, n_heads=4, n_kv_heads=2, hidden_dim=384, vocab_size=2304, window=4096
    ),
    "mistral-150m": Shape(
        dim=768, n_layers=14, n_heads=12, n_kv_heads=4, hidden_dim=2560, vocab_size=32000
    ),
    "mixtral-330m": Shape(
        dim=768, n_layers=8, n_heads=12, n_kv_heads=4, hidden_dim=1792, vocab_size=32000, experts=8
    ),
    "window-150m": Shape(
        dim=768, n_layers=14, n_heads=12, n_kv_heads=4, hidden_dim=2560, vocab_size=32000,
        window=4096,
    ),
    "mistral-32-layers": Shape(
        dim=64, n_layers=32, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=64
    ),
    "mixtral-32-layers": Shape(
        dim=64, n_layers=32, n_heads=4, n_kv_heads=2, hidden_dim=64, vocab_size=64, experts=8
    ),
}  # fmt: skip
"""Sized like the bundled model, where a kernel takes no time; large enough that memory is the
limit; and with as many layers as a 7B, so small that nothing but launching is left."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, help="quantize (default: float32)")
    args = parser.parse_args()
    write_model(args.folder, SHAPES[args.name], bits=args.bits)


def write_model(folder: Path, shape: Shape, *, bits: int | None = None, seed: int = 0) -> Path:
    """Writes config.json and float32 or quantized weights; one shard in memory at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: list[dict[str, mx.array]] = [{}]
    index: dict[str, str] = {}
    for number, (name, dims) in enumerate(tensors(shape)):
        for part, array in _stored(name, _drawn(dims, seed + number), bits):
            shards[-1][part] = array
        mx.eval(shards[-1])
        if sum(array.nbytes for array in shards[-1].values()) > SHARD_BYTES:
            _save(folder, shards, index)
    _save(folder, shards, index)
    text = json.dumps({"metadata": {}, "weight_map": index})
    (folder / "model.safetensors.index.json").write_text(text)
    (folder / "config.json").write_text(json.dumps(shape.config(bits), indent=2))
    return folder


def tensors(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes as converted checkpoints have them."""
    dim, heads = shape.dim, shape.head_dim
    stack = (shape.experts,) if shape.experts else ()
    feed_forward = "block_sparse_moe.switch_mlp" if shape.experts else "mlp"
    yield "model.embed_tokens.weight", (shape.vocab_size, dim)
    for n in range(shape.n_layers):
        layer = f"model.layers.{n}"
        yield f"{layer}.input_layernorm.weight", (dim,)
        yield f"{layer}.self_attn.q_proj.weight", (shape.n_heads * heads, dim)
        yield f"{layer}.self_attn.k_proj.weight", (shape.n_kv_heads * heads, dim)
        yield f"{layer}.self_attn.v_proj.weight", (shape.n_kv_heads * heads, dim)
        yield f"{layer}.self_attn.o_proj.weight", (dim, shape.n_heads * heads)
        yield f"{layer}.post_attention_layernorm.weight", (dim,)
        if shape.experts:
            yield f"{layer}.block_sparse_moe.gate.weight", (shape.experts, dim)
        yield f"{layer}.{feed_forward}.gate_proj.weight", (*stack, shape.hidden_dim, dim)
        yield f"{layer}.{feed_forward}.up_proj.weight", (*stack, shape.hidden_dim, dim)
        yield f"{layer}.{feed_forward}.down_proj.weight", (*stack, dim, shape.hidden_dim)
    yield "model.norm.weight", (dim,)
    yield "lm_head.weight", (shape.vocab_size, dim)


def _drawn(dims: tuple[int, ...], seed: int) -> mx.array:
    """Ones for a norm; else a matrix that keeps the size of what it multiplies."""
    if len(dims) == 1:
        return mx.ones(dims)
    return mx.random.normal(dims, key=mx.random.key(seed)) * dims[-1] ** -0.5


def _stored(name: str, array: mx.array, bits: int | None) -> Iterator[tuple[str, mx.array]]:
    """One tensor, or the three of a quantized matrix. Routers stay as they are."""
    if not bits or array.ndim == 1 or name.endswith(".gate.weight"):
        yield name, array
        return
    module = name.removesuffix(".weight")
    parts = mx.quantize(array, group_size=GROUP_SIZE, bits=bits)
    for part, stored in zip(("weight", "scales", "biases"), parts, strict=True):
        yield f"{module}.{part}", stored


def _save(folder: Path, shards: list[dict[str, mx.array]], index: dict[str, str]) -> None:
    """Writes the last shard, forgets its arrays and begins another."""
    if not shards[-1]:
        return
    file = f"model-{len(shards):05d}.safetensors"
    mx.save_safetensors(str(folder / file), shards[-1], {"format": "mlx"})
    index.update(dict.fromkeys(shards[-1], file))
    shards[-1] = {}
    shards.append({})


if __name__ == "__main__":
    main()
