"""Models of any size, as far as headers go: nothing of them is ever computed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from mlx_mistral.checkpoint.headers import Headers, interpret
from mlx_mistral.checkpoint.layouts import FileSet
from mlx_mistral.config import ModelConfig
from mlx_mistral.files.safetensors import LENGTH_BYTES, parse_header
from mlx_mistral.model import Model

HF_7B: dict[str, Any] = {
    "model_type": "mistral", "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "intermediate_size": 14336, "vocab_size": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1e6,
    "sliding_window": None, "max_position_embeddings": 32768, "tie_word_embeddings": False,
}  # fmt: skip
HF_8X7B = HF_7B | {
    "model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8, "num_experts_per_tok": 2,
}  # fmt: skip
HF_22B = HF_7B | {
    "hidden_size": 6144, "num_hidden_layers": 56, "num_attention_heads": 48,
    "intermediate_size": 16384,
}  # fmt: skip
STORED = {mx.bfloat16: "BF16", mx.uint32: "U32", mx.uint8: "U8"}


def on_paper(config: dict[str, Any], bits: int | None, group_size: int = 64) -> Headers:
    """The headers of a model of any size: MLX tells shapes of arrays that it never computes."""
    model = Model(ModelConfig.from_hf(config))
    model.set_dtype(mx.bfloat16)
    if bits:
        nn.quantize(
            model,
            group_size=group_size,
            bits=bits,
            class_predicate=lambda path, module: (
                hasattr(module, "to_quantized") and not path.endswith("gate")
            ),
        )
        config = config | {"quantization": {"group_size": group_size, "bits": bits}}
    entries, end = {}, 0
    for name, array in tree_flatten(model.parameters()):
        entries[name] = {
            "dtype": STORED[array.dtype],
            "shape": array.shape,
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    raw, file = json.dumps(entries).encode(), Path("model.safetensors")
    tensors = parse_header(raw, LENGTH_BYTES + len(raw) + end, file)
    found = FileSet(kind="hf", config="config.json", weights=(file.name,))
    return interpret(found, config, tensors, (file,), "paper")
