"""A tokenizer and weights are read side by side; what goes wrong is told as if they were not."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral import demo, load, loading
from mlx_mistral.errors import CheckpointError, MemoryBudgetError, TokenizerError

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo.model_path(), tmp_path / "model"))


def spoil_tokenizer(folder: Path) -> None:
    for path in folder.glob("*tok*"):
        path.unlink()
    (folder / "tekken.json").write_text("{")


def test_the_tokenizer_is_read_while_the_weights_are(monkeypatch: pytest.MonkeyPatch) -> None:
    weights_begun, tokenizer_done = threading.Event(), threading.Event()
    read_tokenizer, read_weights = loading.load_tokenizer, loading.load_within

    def tokenizer(folder: Path) -> object:
        assert weights_begun.wait(10)
        read = read_tokenizer(folder)
        tokenizer_done.set()
        return read

    def weights(*args: Any, **options: Any) -> object:
        weights_begun.set()
        assert tokenizer_done.wait(10)
        return read_weights(*args, **options)

    monkeypatch.setattr(loading, "load_tokenizer", tokenizer)
    monkeypatch.setattr(loading, "load_within", weights)
    load("demo", lazy=True)


def test_arrays_belong_to_the_thread_that_asked_for_them() -> None:
    model, tokenizer = load("demo", lazy=True)
    ids = mx.array([tokenizer.encode("Hello")])
    mx.eval(model(ids))
    assert not [one for one in threading.enumerate() if one.name.startswith("tokenizer")]


def test_weights_that_cannot_be_read_are_an_error_of_theirs(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, 1000)
    with pytest.raises(CheckpointError, match=WEIGHTS):
        load(folder)
    with pytest.raises(MemoryBudgetError):
        load("demo", memory=1000)


def test_of_two_errors_the_tokenizers_is_told(folder: Path) -> None:
    spoil_tokenizer(folder)
    with pytest.raises(TokenizerError) as alone:
        load(folder)
    with pytest.raises(TokenizerError) as budget:
        load(folder, memory=1000)
    os.truncate(folder / WEIGHTS, 1000)
    with pytest.raises(TokenizerError) as both:
        load(folder)
    assert str(both.value) == str(budget.value) == str(alone.value)
