"""The bundled demo model: where it lies. How it was made: README.md in this folder."""

from pathlib import Path


def model_path() -> Path:
    """The folder of the demo model: config.json, weights, tokenizer."""
    return Path(__file__).parent / "model"
