"""A random model in a folder, and a way to run the command line inside the test."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from command_line import Ended, Run
from mlx.utils import tree_flatten

from mlx_mistral import ModelConfig, demo
from mlx_mistral.cli.main import main
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


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: `run("generate", "demo", stdin=b"…")`."""

    def run(*args: str | Path, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        capsys.readouterr()
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        return Ended(int(status), *capsys.readouterr())

    return run
