"""A conversion holds a few slabs, however many layers and experts there are."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.convert import convert_checkpoint, pipeline, shard_file, writing
from mlx_mistral.files import untrusted
from tests.checkpoint.models import HF_CONFIG, HF_MOE
from tests.checkpoint.writers import write_json, write_safetensors

SLAB_BYTES = 64 << 10
DIM, VOCAB, EXPERTS = 512, 64, 8
IN_FLIGHT = pipeline.AHEAD + 1 + (pipeline.MAX_LANES + 1) + pipeline.AHEAD + 1
"""Slabs that are read ahead, computed and waiting to be written, the one in hand included."""


def synthetic(folder: Path, *, layers: int, moe: bool) -> int:
    """Bfloat16 in zeros, as much as a few MB a layer. Returns the bytes of a layer."""
    top = {"model.embed_tokens": (VOCAB, DIM), "model.norm": (DIM,), "lm_head": (VOCAB, DIM)}
    shapes: dict[str, tuple[int, ...]] = dict(top)
    for n in range(layers):
        layer = f"model.layers.{n}"
        shapes |= {f"{layer}.{norm}": (DIM,) for norm in ("input_layernorm",
                                                          "post_attention_layernorm")}  # fmt: skip
        for letter in "qkvo":
            shapes[f"{layer}.self_attn.{letter}_proj"] = (DIM, DIM)
        if moe:
            shapes[f"{layer}.block_sparse_moe.gate"] = (EXPERTS, DIM)
            for expert in range(EXPERTS):
                for name in ("w1", "w2", "w3"):
                    path = f"{layer}.block_sparse_moe.experts.{expert}.{name}"
                    shapes[path] = (DIM, DIM)
        else:
            for name in ("gate_proj", "up_proj", "down_proj"):
                shapes[f"{layer}.mlp.{name}"] = (DIM, DIM)
    folder.mkdir()
    sizes = {"hidden_size": DIM, "intermediate_size": DIM, "vocab_size": VOCAB, "head_dim": 128,
             "num_key_value_heads": 4, "num_hidden_layers": layers,
             **({"num_local_experts": EXPERTS} if moe else {})}  # fmt: skip
    write_json(folder / "config.json", {**(HF_MOE if moe else HF_CONFIG), **sizes})
    arrays = {f"{path}.weight": np.zeros(shape, np.uint16) for path, shape in shapes.items()}
    write_safetensors(folder / "model.safetensors", arrays)
    return sum(array.nbytes for name, array in arrays.items() if ".layers.0." in name)


def peaks(source: Path, dest: Path, **choices: Any) -> tuple[int, int]:
    """Of MLX and of NumPy: bytes more than before."""
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    tracemalloc.start()
    convert_checkpoint(source, dest, **choices)
    numpy = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return mx.get_peak_memory() - before, numpy


@pytest.mark.parametrize("moe", [False, True], ids=["dense", "mixture"])
@pytest.mark.parametrize("choices", [{"bits": 4}, {"mode": "bf16"}], ids=["quantized", "copied"])
def test_memory_is_a_few_slabs_and_no_layer(
    moe: bool, choices: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slab is held in two forms at a time: read and decoded, decoded and packed."""

    monkeypatch.setattr(writing, "SLAB_BYTES", SLAB_BYTES)
    # What is read of JSON and for checking is as little here as slabs are.
    monkeypatch.setattr(shard_file, "_READ_BYTES", SLAB_BYTES)
    monkeypatch.setattr(untrusted, "MAX_JSON_BYTES", 4 * SLAB_BYTES)
    bound = 2 * IN_FLIGHT * SLAB_BYTES
    for layers in (2, 6):
        source = tmp_path / f"source-{layers}"
        layer_bytes = synthetic(source, layers=layers, moe=moe)
        assert bound < layer_bytes
        by_mlx, by_numpy = peaks(source, tmp_path / f"out-{layers}", **choices)
        assert by_mlx < bound
        assert by_numpy < bound
