"""Files that go wrong while experts are read from them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral import Chat, load
from mlx_mistral.checkpoint import load_model
from mlx_mistral.demo import model_path
from mlx_mistral.errors import CheckpointError
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.streaming import StreamedModel, load_streaming
from tests.checkpoint.models import VOCAB, old_mixtral_weights
from tests.streaming.folders import FOLDERS, MOE, torch
from tests.tiny import random_ids

FILE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return FOLDERS["mlx-affine-4"](tmp_path / "model")


def texts(model: Any, cache: Any, n: int = 8, prompt: int = 5) -> list[int]:
    steps = generate_ids(
        model,
        random_ids(prompt, VOCAB),
        cache=cache,
        sampling=Sampling(temp=0.0),
        max_tokens=n,
    )
    return [step.token for step in steps]


def one_line(model: StreamedModel, cache: Any, match: str) -> None:
    with pytest.raises(CheckpointError, match=match) as caught:
        texts(model, cache, 40)
    assert "\n" not in str(caught.value)
    assert FILE in str(caught.value)


def test_a_file_that_shrinks_is_one_clear_line(folder: Path) -> None:
    model = load_streaming(folder, slots=2)
    cache = model.make_cache()
    texts(model, cache)
    os.truncate(folder / FILE, (folder / FILE).stat().st_size // 4)
    one_line(model, cache, "changed while its experts were read; put the model back")


def test_a_file_that_is_written_over_is_noticed(folder: Path) -> None:
    model = load_streaming(folder, slots=2)
    path = folder / FILE
    with path.open("r+b") as file:
        file.seek(-50, os.SEEK_END)
        file.write(b"x" * 50)
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    one_line(model, model.make_cache(), "changed while its experts were read")


def test_a_file_that_vanishes_is_still_read(folder: Path) -> None:
    expected = load_model(folder)
    tokens = texts(expected, expected.make_cache())
    model = load_streaming(folder, slots=2)
    (folder / FILE).unlink()
    assert texts(model, model.make_cache()) == tokens


def test_after_a_disk_error_the_chat_goes_on_where_it_was(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resident, model = load_model(folder), load_streaming(folder, slots=2)
    cache, expected = model.make_cache(), resident.make_cache()
    assert texts(model, cache) == texts(resident, expected)
    length, keys = cache[0].offset, [np.array(one.state[0]) for one in cache]
    read = os.preadv
    calls = iter(range(10**9))

    def fails_later(*arguments: Any) -> int:
        if next(calls) >= 7:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return read(*arguments)

    monkeypatch.setattr(os, "preadv", fails_later)
    for n in (1, 30):
        with pytest.raises(CheckpointError, match="Input/output error; see that its disk"):
            texts(model, cache, 1, n)
        assert [one.offset for one in cache] == [length] * len(cache)
    monkeypatch.undo()
    assert all(
        np.array_equal(np.array(one.state[0])[..., :length, :], before[..., :length, :])
        for one, before in zip(cache, keys, strict=True)
    )
    assert texts(model, cache) == texts(resident, expected)


def test_a_disk_error_in_mid_reply_leaves_a_chat_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, tokenizer = load("demo")
    model = load_streaming(model_path(), slots=6)
    whole, chat = (Chat(one, tokenizer, max_tokens=12) for one in (resident, model))
    expected = "".join(piece.text for piece in whole.send("Who are you?"))
    reply = chat.send("Who are you?")
    next(reply)
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", _fails)
        with pytest.raises(CheckpointError, match="Input/output error"):
            list(reply)
    assert [one["role"] for one in chat.messages] == ["user", "assistant"]
    assert chat.messages[1]["content"] == expected[: len(chat.messages[1]["content"])] != ""
    whole.messages[1] = dict(chat.messages[1])
    expected = "".join(piece.text for piece in whole.send("Go on."))
    assert "".join(piece.text for piece in chat.send("Go on.")) == expected


def _fails(*arguments: Any) -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_an_error_while_reading_ahead_counts_only_for_who_needs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = load_streaming(folder, slots=3).streaming
    read = os.preadv
    monkeypatch.setattr(os, "preadv", _fails)
    assert stream.begin((1, 0), guessed=[(1, 0)])
    assert stream.begin((0, 0))
    with pytest.raises(CheckpointError, match="Input/output error"):
        stream.take((0, 0))
    assert (0, 0) not in stream.resident
    monkeypatch.setattr(os, "preadv", read)
    for key in ((0, 0), (1, 0)):
        assert stream.begin(key)
        stream.take(key)


def test_short_reads_are_continued(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = load_model(folder)
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, views, at: read(fd, [views[0][:99]], at))
    model = load_streaming(folder, slots=3)
    ids = mx.array([random_ids(6, VOCAB)])
    assert mx.array_equal(model(ids), expected(ids))


def test_a_torch_file_in_another_order_is_refused(tmp_path: Path) -> None:
    weights = {n: np.asfortranarray(one) for n, one in old_mixtral_weights(MOE).items()}
    with pytest.raises(CheckpointError, match=r"cannot be read in parts; .* convert first"):
        load_streaming(torch(tmp_path / "model", weights), slots=2)
