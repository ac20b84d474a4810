"""Checks of expert offloading: a mixture whose experts are on disk gives the same logits."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mistral.backend.device import device_kind
from mlx_mistral.backend.select import use_backend
from mlx_mistral.checkpoint import load_model
from mlx_mistral.config.quantization import QuantParams
from mlx_mistral.model import Model
from mlx_mistral.streaming import load_streaming

from .check import REPORT, Measurement, Probe
from .quantized import describe
from .setup import Setup
from .tolerance import n_different, normal

CONFIG: dict[str, Any] = {
    "model_type": "mixtral",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "vocab_size": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e6,
    "max_position_embeddings": 4096,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "sliding_window": None,
}
FORMATS = (
    None,
    QuantParams(group_size=64, bits=4),
    QuantParams(group_size=32, bits=4, mode="mxfp4"),
)
CHUNKS = (5, 1, 80, 1, 1)
"""Few tokens, many, and decode steps."""
SLOTS = 5
"""Experts in memory, of 16."""


def offload_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of plain and quantized experts."""
    for params in FORMATS:
        stored = "unquantized" if params is None else describe(params)
        yield Probe(
            name=setup.name(f"expert offloading, {stored}"),
            measure=partial(offload_differences, setup, params),
            advice=f"do not use models larger than memory on this machine; {REPORT}",
        )


def offload_differences(setup: Setup, params: QuantParams | None) -> Measurement:
    """Count logits that are not bit-equal to those of the resident model."""
    if device_kind() == "cuda":
        return Measurement(value="not available with CUDA")
    with tempfile.TemporaryDirectory() as name, use_backend(setup.backend):
        folder = Path(name)
        write_mixture(folder, params, setup.dtype)
        expected = _logits(load_model(folder, dtype=setup.dtype))
        model = load_streaming(folder, slots=SLOTS, dtype=setup.dtype)
        try:
            count = n_different(_logits(model), expected)
        finally:
            model.streaming.close()
    return Measurement.differences(count)


def write_mixture(folder: Path, params: QuantParams | None, dtype: mx.Dtype) -> None:
    """Write a small random mixture whose experts are quantized or not."""
    config = dict(CONFIG)
    if params is not None:
        config["quantization"] = {
            "group_size": params.group_size,
            "bits": params.bits,
            "mode": params.mode,
        }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors: dict[str, mx.array] = {}
    for seed, (path, shape) in enumerate(_shapes().items()):
        spread = 1.2 * shape[-1] ** -0.5
        weight = normal(shape, mx.float32, seed) * spread if len(shape) > 1 else mx.ones(shape)
        weight = weight.astype(dtype)
        if params is None or ".switch_mlp." not in path:
            tensors[f"{path}.weight"] = weight
            continue
        parts = mx.quantize(
            weight, group_size=params.group_size, bits=params.bits, mode=params.mode
        )
        for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
            tensors[f"{path}.{part}"] = array
    mx.save_safetensors(str(folder / "model.safetensors"), tensors)


def _shapes() -> dict[str, tuple[int, ...]]:
    """Return the shape of each weight by its module's path."""
    dim, hidden, vocab = (CONFIG[f"{n}_size"] for n in ("hidden", "intermediate", "vocab"))
    head_dim, n_experts = CONFIG["head_dim"], CONFIG["num_local_experts"]
    q_dim, kv_dim = (head_dim * CONFIG[f"num_{n}_heads"] for n in ("attention", "key_value"))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens": (vocab, dim),
        "model.norm": (dim,),
        "lm_head": (vocab, dim),
    }
    for n in range(CONFIG["num_hidden_layers"]):
        layer = f"model.layers.{n}"
        shapes |= {
            f"{layer}.input_layernorm": (dim,),
            f"{layer}.post_attention_layernorm": (dim,),
            f"{layer}.self_attn.q_proj": (q_dim, dim),
            f"{layer}.self_attn.k_proj": (kv_dim, dim),
            f"{layer}.self_attn.v_proj": (kv_dim, dim),
            f"{layer}.self_attn.o_proj": (dim, q_dim),
            f"{layer}.block_sparse_moe.gate": (n_experts, dim),
            f"{layer}.block_sparse_moe.switch_mlp.gate_proj": (n_experts, hidden, dim),
            f"{layer}.block_sparse_moe.switch_mlp.up_proj": (n_experts, hidden, dim),
            f"{layer}.block_sparse_moe.switch_mlp.down_proj": (n_experts, dim, hidden),
        }
    return shapes


def _logits(model: Model) -> mx.array:
    """Shapes: -> (1, T, vocab)."""
    ids = mx.random.randint(0, CONFIG["vocab_size"], (1, sum(CHUNKS)), key=mx.random.key(9))
    cache, start, parts = model.make_cache(), 0, []
    for n_new in CHUNKS:
        parts.append(model(ids[:, start : start + n_new], cache))
        start += n_new
    logits = mx.concatenate(parts, axis=1)
    mx.eval(logits)
    return logits
