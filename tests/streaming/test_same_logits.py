"""Experts that come and go compute what resident ones do, to the bit."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_mistral.streaming.library
from mlx_mistral import generate
from mlx_mistral.backend.select import use_backend
from mlx_mistral.batch_completion import batch_generate
from mlx_mistral.checkpoint import load_model
from mlx_mistral.demo import model_path
from mlx_mistral.model import Model
from mlx_mistral.streaming import StreamedModel, load_streaming
from tests.checkpoint.models import EXPERTS, LAYERS, VOCAB
from tests.streaming.folders import FOLDERS, PROJECTIONS
from tests.tiny import random_ids

ALL = LAYERS * EXPERTS


def logits(model: Model, chunks: list[int], n_texts: int = 1) -> np.ndarray:
    """Of random texts fed in chunks. Shapes: -> (n_texts, T, vocab)."""
    ids = np.array([random_ids(sum(chunks), VOCAB, seed) for seed in range(n_texts)])
    cache, parts = model.make_cache(), []
    for part in np.split(ids, np.cumsum(chunks)[:-1], axis=1):
        parts.append(model(mx.array(part), cache))
    return np.array(mx.concatenate(parts, axis=1).astype(mx.float32))


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_layout_gives_the_logits_of_the_resident_model(kind: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind](tmp_path / kind)
    chunks = [5, 1, 1, 2, 20, 1, 1]
    resident = load_model(folder)
    expected = logits(resident, chunks)
    assert np.isfinite(expected).all()
    for slots in (2, 3, 5, ALL - 1, ALL):
        model = load_streaming(folder, slots=slots)
        assert np.array_equal(logits(model, chunks), expected), slots
        assert model.fingerprint() == resident.fingerprint()
        assert model.streaming.resident_bytes <= model.streaming.budget_bytes
        model.streaming.close()


@pytest.mark.parametrize("kind", ["hf-f32", "mlx-affine-4"])
@pytest.mark.parametrize("n", [16, 140, 700])
def test_many_tokens_are_worked_on_as_by_the_resident_model(
    kind: str, n: int, tmp_path: Path
) -> None:
    """So many that the resident experts work on blocks of them, of several sizes."""
    folder = FOLDERS[kind](tmp_path / kind)
    expected = logits(load_model(folder), [n, 1])
    assert np.array_equal(logits(load_streaming(folder, slots=3), [n, 1]), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("kind", ["hf-f32", "hf-bf16-sharded", "mlx-affine-3"])
def test_every_dtype_of_activations_does(kind: str, dtype: str, tmp_path: Path) -> None:
    folder = FOLDERS[kind](tmp_path / kind)
    with use_backend("cpu"):  # MLX's CPU device gathers the experts' matrices in float32 alone
        expected = logits(load_model(folder, dtype=dtype), [6, 1, 1])
        model = load_streaming(folder, slots=3, dtype=dtype)
        assert model.dtype == {"bfloat16": mx.bfloat16, "float16": mx.float16}[dtype]
        assert np.array_equal(logits(model, [6, 1, 1]), expected)


@pytest.mark.parametrize("slots", [2, 6])
def test_experts_read_in_many_pieces_are_whole(
    slots: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlx_mistral.streaming.library, "READ_BYTES", 1000)
    for kind in ("hf-bf16-sharded", "mlx-affine-4", "hf-fp8"):
        folder = FOLDERS[kind](tmp_path / kind)
        model = load_streaming(folder, slots=slots)
        assert np.array_equal(logits(model, [4, 1, 1]), logits(load_model(folder), [4, 1, 1]))


def test_texts_together_are_those_of_the_resident_model(tmp_path: Path) -> None:
    folder = FOLDERS["mlx-affine-4"](tmp_path / "model")
    prompts = [random_ids(n, VOCAB, n) for n in (3, 9, 6)]
    found, expected = (
        batch_generate(model, None, prompts, max_tokens=6).token_ids
        for model in (load_streaming(folder, slots=3), load_model(folder))
    )
    assert found == expected


def test_generation_says_the_same() -> None:
    from mlx_mistral import load

    resident, tokenizer = load("demo")
    streamed = load_streaming(model_path(), slots=9)
    for options in ({}, {"temp": 0.8, "seed": 3}, {"kv_bits": 8}, {"prefill_step_size": 4}):
        texts = [
            generate(model, tokenizer, "The sea is", max_tokens=12, **options)
            for model in (streamed, resident)
        ]
        assert texts[0] == texts[1]
    assert not streamed.is_traceable


def test_passes_that_are_computed_late_and_out_of_order_are_right(tmp_path: Path) -> None:
    """Their last layers still wait to be computed while other passes fill the slots anew."""
    folder = FOLDERS["mlx-stacked"](tmp_path / "model")
    resident, streamed = load_model(folder), load_streaming(folder, slots=2)
    ids = random_ids(12, VOCAB)
    passes = [[model(mx.array([[one]])) for one in ids] for model in (streamed, resident)]
    for found, expected in reversed(list(zip(*passes, strict=True))):
        assert mx.array_equal(found, expected)


def test_what_loads_streamed_has_everything_but_the_experts_resident(tmp_path: Path) -> None:
    folder = FOLDERS["mlx-affine-4"](tmp_path / "model")
    model = load_streaming(folder, slots=2)
    found = dict_of(model)
    expected = dict_of(load_model(folder))
    assert set(expected) - set(found) == {
        f"model.layers.{n}.block_sparse_moe.switch_mlp.{projection}.{part}"
        for n in range(LAYERS)
        for projection in PROJECTIONS
        for part in ("weight", "scales", "biases")
    }
    assert all(mx.array_equal(array, expected[name]) for name, array in found.items())


def dict_of(model: Model | StreamedModel) -> dict[str, mx.array]:
    from mlx.utils import tree_flatten

    return dict(tree_flatten(model.parameters()))
