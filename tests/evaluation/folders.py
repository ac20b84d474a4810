"""Folders of every family's tiny model, in Mistral's own layout."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten
from tiny import BASE, FAMILIES, tiny_config, tiny_model, weights_of

from mlx_mistral.checkpoint import load_model
from tests.checkpoint.models import OFFICIAL
from tests.checkpoint.writers import write_json, write_safetensors

EXPERT_MATRICES = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def family_folder(folder: Path, family: str) -> Path:
    """params.json and consolidated.safetensors of a family's tiny model."""
    config = tiny_config(**FAMILIES[family])
    tensors: dict[str, np.ndarray] = {}
    for name, array in weights_of(tiny_model(config)).items():
        array = array.astype(np.float32)
        if ".q_proj." in name or ".k_proj." in name:
            halves = array.reshape(-1, 2, config.head_dim // 2, array.shape[-1])
            array = halves.swapaxes(1, 2).reshape(array.shape)
        if ".switch_mlp." in name:
            block, _, matrix = name.removesuffix(".weight").partition(".switch_mlp.")
            for expert, one in enumerate(array):
                stored = f"{block}.experts.{expert}.{EXPERT_MATRICES[matrix]}.weight"
                tensors[official_name(stored)] = one
        else:
            tensors[official_name(name)] = array
    write_json(folder / "params.json", {**BASE, **FAMILIES[family]})
    write_safetensors(folder / "consolidated.safetensors", tensors)
    return folder


def quantized_folder(source: Path, folder: Path) -> Path:
    """The model of a Hugging Face folder in 4 bits, its router gates and first q_proj not."""
    exempt = "model.layers.0.self_attn.q_proj"

    def chosen(path: str, module: nn.Module) -> bool:
        return hasattr(module, "to_quantized") and not path.endswith("_moe.gate") and path != exempt

    model = load_model(source)
    nn.quantize(model, group_size=32, bits=4, class_predicate=chosen)
    folder.mkdir()
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    config = json.loads((source / "config.json").read_text())
    block = {"group_size": 32, "bits": 4, exempt: False}
    write_json(folder / "config.json", {**config, "quantization": block})
    return folder


def official_name(name: str) -> str:
    for theirs, ours in OFFICIAL:
        name = name.replace(theirs, ours)
    return name
