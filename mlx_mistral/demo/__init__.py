"""The bundled demo model: where it lies. How it was made: README.md in this folder."""

from pathlib import Path


def model_path() -> Path:
    """The folder of the demo model: config.json, weights, tokenizer."""
    return Path(__file__).parent / "model"


def greedy_reply_path() -> Path:
    """Return the file of a recorded reply: ids and logits that NumPy computed in float64."""
    return Path(__file__).parent / "greedy_reply.json"
