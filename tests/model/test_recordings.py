"""Logits of tiny checkpoints, as transformers 5.23.0 on torch 2.13.0 computed them.

tests/recordings/make.py made the folders and says how; versions.json says with what.
"""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.checkpoint import load_model

RECORDINGS = Path(__file__).parents[1] / "recordings"
TOLERANCE = 2e-5
FOLDERS = sorted({file.parent.name for file in RECORDINGS.glob("*/*.json")})


def source_of(folder: str) -> str:
    """The folder that transformers saved, of which the others are another layout."""
    return folder.split("-official")[0].removesuffix("-resaved")


def recording(folder: str) -> tuple[mx.array, np.ndarray]:
    """Token ids (B, T) and logits (B, T, vocab) for a folder or the one whose weights it shares."""
    with np.load(RECORDINGS / source_of(folder) / "recording.npz") as saved:
        return mx.array(saved["tokens"]), saved["logits"]


def largest_difference(ours: mx.array, theirs: np.ndarray) -> float:
    return float(np.abs(np.array(ours.astype(mx.float32)) - theirs).max())


def test_every_layout_is_recorded() -> None:
    assert len(FOLDERS) == 22


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_full_pass_gives_the_recorded_logits(folder: str) -> None:
    tokens, logits = recording(folder)
    model = load_model(RECORDINGS / folder, dtype="float32")
    assert largest_difference(model(tokens), logits) <= TOLERANCE


@pytest.mark.parametrize("folder", [name for name in FOLDERS if source_of(name) != name])
def test_another_layout_of_the_same_weights_gives_equal_logits(folder: str) -> None:
    tokens, _ = recording(folder)
    model = load_model(RECORDINGS / folder, dtype="float32")
    original = load_model(RECORDINGS / source_of(folder), dtype="float32")
    assert mx.array_equal(model(tokens), original(tokens))


@pytest.mark.parametrize("chunks", [(7, 1, 1, 11, 3), (1,), (16,)], ids=str)
@pytest.mark.parametrize("folder", [name for name in FOLDERS if source_of(name) == name])
def test_prefill_and_decode_give_the_recorded_logits(folder: str, chunks: tuple[int, ...]) -> None:
    """Chunks repeat to the end of the text; each passes through the model's own caches."""
    tokens, logits = recording(folder)
    model = load_model(RECORDINGS / folder, dtype="float32")
    cache = model.make_cache()
    pieces: list[mx.array] = []
    start = 0
    while start < tokens.shape[1]:
        size = chunks[len(pieces) % len(chunks)]
        pieces.append(model(tokens[:, start : start + size], cache=cache))
        mx.eval(pieces[-1])
        start += size
    assert largest_difference(mx.concatenate(pieces, axis=1), logits) <= TOLERANCE
