"""The walk over a checkpoint computes what the loaded model does, with one layer in memory."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny import FAMILIES, random_ids

from mlx_mistral.checkpoint import Checkpoint, load_model
from mlx_mistral.demo import model_path
from mlx_mistral.errors import CheckpointError
from mlx_mistral.evaluation import layerwise
from mlx_mistral.evaluation.layerwise import LayerWalk, logits_in_parts
from tests.checkpoint.models import hf_weights, write_hf
from tests.evaluation.folders import family_folder, quantized_folder


def walk_of(folder: Path) -> LayerWalk:
    return LayerWalk(Checkpoint(folder), dtype="float32")


def tokens_of(rows: int, length: int, vocab_size: int = 61, seed: int = 0) -> mx.array:
    return mx.array(np.reshape(random_ids(rows * length, vocab_size, seed), (rows, length)))


def logits_of(walk: LayerWalk, tokens: mx.array) -> np.ndarray:
    parts = [logits for _, (logits,) in logits_in_parts([walk], tokens)]
    return np.array(mx.concatenate(parts)).reshape(*tokens.shape, -1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_walk_equals_the_loaded_model(family: str, tmp_path: Path) -> None:
    folder, tokens = family_folder(tmp_path, family), tokens_of(3, 21)
    expected = np.array(load_model(folder, dtype="float32")(tokens))
    np.testing.assert_allclose(logits_of(walk_of(folder), tokens), expected, atol=2e-5)


def test_the_walk_equals_the_demo_past_its_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layerwise, "CHUNK_TOKENS", 150)
    monkeypatch.setattr(layerwise, "LOGITS_BYTES", 100 * 4 * 2304)
    tokens = tokens_of(3, 130, 2304)
    expected = np.array(load_model(model_path(), dtype="float32")(tokens))
    np.testing.assert_allclose(logits_of(walk_of(model_path()), tokens), expected, atol=2e-5)


@pytest.mark.parametrize("moe", [False, True])
def test_the_walk_reads_quantized_folders(moe: bool, tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", hf_weights(moe=moe), moe=moe)
    quantized_folder(source, tmp_path / "quantized")
    tokens = tokens_of(2, 30, 80)
    expected = np.array(load_model(tmp_path / "quantized", dtype="float32")(tokens))
    found = logits_of(walk_of(tmp_path / "quantized"), tokens)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_two_models_walk_side_by_side(tmp_path: Path) -> None:
    folders = []
    for seed in (0, 1):
        folders.append(write_hf(tmp_path / str(seed), hf_weights(seed=seed)))
    tokens = tokens_of(2, 9, 80)
    heard: list[tuple[int, int]] = []
    walks = [walk_of(folder) for folder in folders]
    for part, both in logits_in_parts(walks, tokens, progress=lambda *n: heard.append(n)):
        for folder, logits in zip(folders, both, strict=True):
            expected = load_model(folder, dtype="float32")(tokens).flatten(0, 1)[part]
            np.testing.assert_allclose(np.array(logits), np.array(expected), atol=2e-5)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_layers_come_with_their_weights_in_order_and_leave_without_them() -> None:
    walk = walk_of(model_path())
    x = walk.embed(tokens_of(1, 8, 2304))
    held = []
    for layer in walk.layers(8):
        mx.synchronize()
        held.append(mx.get_active_memory())
        assert layer.path == f"model.layers.{len(held) - 1}"
        x = layer(x)
    one_layer = sum(array.nbytes for _, array in tree_flatten(layer.block.parameters()))
    assert max(held) - min(held) < one_layer / 4
    mx.synchronize()
    assert mx.get_active_memory() < min(held) - one_layer / 2


def test_a_walk_can_be_repeated() -> None:
    walk, tokens = walk_of(model_path()), tokens_of(1, 8, 2304)
    np.testing.assert_array_equal(np.array(walk.hidden(tokens)), np.array(walk.hidden(tokens)))


def test_a_checkpoint_without_a_tensor_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    weights = hf_weights()
    del weights["model.layers.1.self_attn.v_proj.weight"]
    checkpoint = Checkpoint(write_hf(tmp_path, weights))
    with pytest.raises(CheckpointError, match=r"lack model\.layers\.1\.self_attn\.v_proj\.weight"):
        LayerWalk(checkpoint)
