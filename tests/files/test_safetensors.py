"""Headers of safetensors files: every way in which one can be wrong is one clear error."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.checkpoint import load_model
from mlx_mistral.errors import CheckpointError, ModelNotFoundError
from mlx_mistral.files.safetensors import parse_header, read_header
from tests.checkpoint.models import HF_CONFIG
from tests.checkpoint.writers import safetensors_bytes, write_json

DATA = bytes(64)


def entry(dtype: Any = "F32", shape: Any = (4, 4), offsets: Any = (0, 64), **more: Any) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def one(**fields: Any) -> bytes:
    return safetensors_bytes({"w": entry(**fields)}, DATA)


def two(second: Any, data: bytes = DATA) -> bytes:
    return safetensors_bytes({"a": entry(shape=(2, 4), offsets=(0, 32)), "b": second}, data)


def raw(text: str, data: bytes = DATA) -> bytes:
    return safetensors_bytes(text.encode(), data)


GOOD = one()
BODY = '{"dtype":"F32","shape":[4,4],"data_offsets":[0,64]}'

MALFORMED = {
    "an empty file": b"",
    "seven bytes": GOOD[:7],
    "a length alone": GOOD[:8],
    "a truncated header": GOOD[:20],
    "truncated data": GOOD[:-1],
    "no data at all": GOOD[:-64],
    "trailing junk": GOOD + b"x",
    "header length 0": safetensors_bytes(b"", DATA),
    "header length 1": safetensors_bytes(b"{", DATA),
    "header length past the end": safetensors_bytes({}, DATA, length=10_000),
    "header length 2^31": safetensors_bytes({}, DATA, length=1 << 31),
    "header length 2^63": safetensors_bytes({}, DATA, length=1 << 63),
    "header length 2^64 - 1": safetensors_bytes({}, DATA, length=(1 << 64) - 1),
    "random bytes": bytes(range(256)),
    "a header with leading blanks": raw(f'  {{"w":{BODY}}}'),
    "a header that is no JSON": raw("{w: 1}"),
    "a header cut in JSON": raw('{"w":{"dtype":"F32"'),
    "a header with two objects": raw(f'{{"w":{BODY}}}{{}}'),
    "a list as header": raw("[]"),
    "a text as header": raw('"w"'),
    "a header that is not UTF-8": safetensors_bytes(b'{"\xff\xfe":1}', DATA),
    "deep nesting": raw('{"w":' + "[" * 100_000 + "]" * 100_000 + "}"),
    "a duplicate name": raw(f'{{"w":{BODY},"w":{BODY}}}'),
    "a duplicate key": raw(f'{{"w":{BODY[:-1]},"dtype":"F32"}}}}'),
    "NaN as a dimension": raw('{"w":{"dtype":"F32","shape":[NaN],"data_offsets":[0,64]}}'),
    "Infinity as an offset": raw('{"w":{"dtype":"F32","shape":[4,4],"data_offsets":[0,Infinity]}}'),
    "a number of 10000 digits": raw(f'{{"w":{{"dtype":"F32","shape":[{"9" * 10_000}]}}}}'),
    "an entry that is a number": raw('{"w":1}'),
    "an entry that is null": raw('{"w":null}'),
    "no dtype": safetensors_bytes({"w": {"shape": [4, 4], "data_offsets": [0, 64]}}, DATA),
    "no shape": safetensors_bytes({"w": {"dtype": "F32", "data_offsets": [0, 64]}}, DATA),
    "no data_offsets": safetensors_bytes({"w": {"dtype": "F32", "shape": [4, 4]}}, DATA),
    "an unknown field": one(extra=1),
    "an unknown dtype": one(dtype="F31"),
    "a dtype that is a number": one(dtype=32),
    "a dtype that is a list": one(dtype=["F32"]),
    "a dtype in lower case": one(dtype="f32"),
    "a shape that is a number": one(shape=16),
    "a shape that is null": one(shape=None),
    "a negative dimension": one(shape=(-4, 4)),
    "two negative dimensions": one(shape=(-4, -4)),
    "a dimension 2^32 + 4": one(shape=((1 << 32) + 4, 4)),
    "a dimension 2^64 + 4": one(shape=((1 << 64) + 4, 4)),
    "dimensions that wrap to nothing": one(shape=(1 << 30, 1 << 30, 1 << 4), offsets=(0, 0)),
    "dimensions that wrap to 64 bytes": one(shape=((1 << 31) - 1, (1 << 31) - 1, 1 << 20)),
    "a float dimension": one(shape=(4.0, 4)),
    "a text dimension": one(shape=("4", 4)),
    "a bool dimension": one(shape=(True, 16)),
    "a nested dimension": one(shape=([4], 4)),
    "a hundred dimensions": one(shape=[1] * 98 + [4, 4]),
    "a shape too small for its bytes": one(shape=(4, 2)),
    "a shape too large for its bytes": one(shape=(4, 8)),
    "a dtype too small for its bytes": one(dtype="F16"),
    "one offset": one(offsets=(0,)),
    "three offsets": one(offsets=(0, 32, 64)),
    "offsets in reverse": one(offsets=(64, 0)),
    "a negative offset": one(offsets=(-64, 0)),
    "float offsets": one(offsets=(0.0, 64.0)),
    "text offsets": one(offsets=("0", "64")),
    "offsets past the end": one(offsets=(64, 128)),
    "offsets 2^64 - 40": one(offsets=((1 << 64) - 40, (1 << 64) + 24)),
    "offsets far past the end": one(offsets=(1 << 40, (1 << 40) + 64)),
    "overlapping tensors": two(entry(shape=(4, 4), offsets=(0, 64))),
    "the same bytes twice": two(entry(shape=(2, 4), offsets=(0, 32))),
    "a hole between tensors": two(entry(shape=(2, 4), offsets=(36, 68)), bytes(68)),
    "a hole before the first": safetensors_bytes({"w": entry(offsets=(8, 72))}, bytes(72)),
    "a hole behind the last": two(entry(shape=(1, 4), offsets=(32, 48))),
    "no tensors but data": safetensors_bytes({}, DATA),
    "metadata that is a list": raw(f'{{"__metadata__":[],"w":{BODY}}}'),
    "metadata that holds a number": raw(f'{{"__metadata__":{{"a":1}},"w":{BODY}}}'),
    "an empty name": raw(f'{{"":{BODY}}}'),
    "a name with a line break": raw(f'{{"a\\nb":{BODY}}}'),
    "a name of half a character": raw(f'{{"\\ud800":{BODY}}}'),
    "a name of 10000 letters": raw(f'{{"{"w" * 10_000}":{BODY}}}'),
}  # fmt: skip


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_file_is_one_clear_line_and_never_reaches_mlx(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path / "config.json", HF_CONFIG)
    (tmp_path / "model.safetensors").write_bytes(content)
    monkeypatch.setattr(mx, "load", lambda *_, **__: pytest.fail("MLX was given the file"))
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 400


def test_a_good_header_says_where_each_tensor_lies(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    arrays = {
        "b": mx.arange(6).reshape(2, 3),
        "a": mx.array([1.5], mx.bfloat16),
        "e": mx.zeros((0, 4)),
    }
    mx.save_safetensors(str(path), arrays)
    tensors = read_header(path)
    assert {n: (t.dtype, t.shape) for n, t in tensors.items()} == {
        "a": ("BF16", (1,)),
        "b": ("I32", (2, 3)),
        "e": ("F32", (0, 4)),
    }
    where = tensors["b"]
    stored = np.frombuffer(path.read_bytes()[where.begin : where.end], np.int32)
    assert stored.tolist() == list(range(6))


def test_a_fifo_is_refused_instead_of_waited_on(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="no regular file"):
        read_header(path)


@pytest.mark.parametrize("kind", ["folder", "device"])
def test_only_regular_files_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path if kind == "folder" else Path("/dev/zero")
    with pytest.raises(CheckpointError, match=r"regular file|cannot be opened"):
        read_header(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"w\.safetensors is missing"):
        read_header(tmp_path / "w.safetensors")


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=4))
def test_changed_bytes_give_a_sound_header_or_an_error(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for position, value in changes:
        content[position] = value
    (length,) = struct.unpack("<Q", content[:8])
    header = bytes(content[8 : 8 + min(length, len(content))])
    try:
        tensors = parse_header(header, len(content), Path("w"))
    except CheckpointError:
        return
    begin = 8 + len(header)
    for info in sorted(tensors.values(), key=lambda info: info.begin):
        assert info.begin == begin
        assert info.nbytes == info.size * {"F32": 4, "U32": 4, "I32": 4}[info.dtype]
        begin = info.end
    assert begin == len(content)


def test_real_headers_with_blanks_behind_are_read(tmp_path: Path) -> None:
    header = json.dumps({"w": entry()}).encode() + b"   "
    path = tmp_path / "w.safetensors"
    path.write_bytes(safetensors_bytes(header, DATA))
    assert read_header(path)["w"].shape == (4, 4)
