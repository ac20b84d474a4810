"""Writes the bundled folder from trained weights: `python -m mlx_mistral.demo.export OUT`."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import mlx.core as mx

from mlx_mistral.demo import model_path
from mlx_mistral.demo.architecture import CONFIG


def export(weights: Path, folder: Path) -> None:
    """bfloat16 weights, config.json and tokenizer, named as in an MLX model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = mx.load(str(weights))
    assert isinstance(arrays, dict)
    rounded = {name: array.astype(mx.bfloat16) for name, array in sorted(arrays.items())}
    mx.save_safetensors(str(folder / "model.safetensors"), rounded, {"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2) + "\n", encoding="utf-8")
    tokenizer = model_path() / "tokenizer.model.v3"
    if folder != model_path():
        shutil.copyfile(tokenizer, folder / tokenizer.name)


def main() -> None:
    """Reads the command line and exports."""
    parser = argparse.ArgumentParser(description="Bundle trained weights.")
    parser.add_argument("out", type=Path, help="the --out of training")
    parser.add_argument("--folder", type=Path, default=model_path())
    arguments = parser.parse_args()
    export(arguments.out / "weights.safetensors", arguments.folder)


if __name__ == "__main__":
    main()
