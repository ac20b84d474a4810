"""A random model in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_mistral import ModelConfig, demo
from mlx_mistral.model import Model
from mlx_mistral.text import load_tokenizer


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random Mistral of two layers that speaks the demo model's tokens."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    source = next(Path(demo.model_path()).glob("tokenizer.model*"))
    (folder / source.name).write_bytes(source.read_bytes())
    config = {
        "model_type": "mistral",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "vocab_size": load_tokenizer(source).vocab_size,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": 16,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    mx.random.seed(7)
    model = Model(ModelConfig.from_hf(config))
    weights = {name: 3.0 * array for name, array in tree_flatten(model.parameters())}
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
    return folder
