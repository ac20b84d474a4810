"""What cannot be done is said in one line, and nothing is left behind or changed."""

from __future__ import annotations

import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mistral.convert import Progress, conversion, convert_checkpoint
from mlx_mistral.errors import ConfigError, ConversionError, MlxMistralError
from tests.checkpoint.models import HF_CONFIG, hf_weights, write_hf
from tests.checkpoint.writers import bfloat16_bits, write_json, write_safetensors
from tests.convert.folders import contents, left_behind

Weights = dict[str, np.ndarray]
CHOICES: dict[str, Any] = {"group_size": 32, "shard_bytes": 10_000}
V_PROJ = "model.layers.0.self_attn.v_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "source", hf_weights())


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything under a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refusal(source: Path, dest: str | Path, **choices: Any) -> str:
    """The one line. Nothing under SOURCE's parent may change."""
    before = tree(source.parent)
    with pytest.raises(MlxMistralError) as caught:
        convert_checkpoint(source, dest, **{**CHOICES, **choices})
    text = str(caught.value)
    assert text.isprintable()
    assert "; " in text, "what next is not said"
    assert tree(source.parent) == before
    return text


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("dest", "fault"),
    [
        ("source", "is the folder of SOURCE"),
        ("source/", "is the folder of SOURCE"),
        ("other/../source", "is the folder of SOURCE"),
        ("link", "is the folder of SOURCE"),
        (".", "holds what is in SOURCE"),
        ("", "holds what is in SOURCE"),
        ("/", "holds what is in SOURCE"),
        ("file", "is a file"),
        ("file/out", "DEST must be in a folder that can be written"),
        ("full", "exists|holds no model"),
        ("project", "exists|holds no model"),
        ("loop", "leads nowhere"),
        ("blobs", "holds what is in SOURCE|exists"),
    ],
)
def test_places_where_no_model_may_be_written(
    dest: str, fault: str, overwrite: bool, source: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("source")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "config.json").write_text("{}")
    (tmp_path / "blobs").mkdir()
    (source / "model.safetensors").rename(tmp_path / "blobs" / "model.safetensors")
    (source / "model.safetensors").symlink_to("../blobs/model.safetensors")
    (tmp_path / "blobs" / "config.json").write_text("{}")
    place = f"{tmp_path}/{dest}" if dest != "/" else "/"
    text = refusal(source, place, overwrite=overwrite)
    assert any(one in text for one in fault.split("|"))


def test_a_model_is_replaced_only_when_that_is_asked_for(source: Path, tmp_path: Path) -> None:
    old = write_hf(tmp_path / "out", hf_weights(seed=1))
    assert "exists; choose another DEST, or replace it with --overwrite" in refusal(source, old)
    done = convert_checkpoint(source, old, overwrite=True, **CHOICES)
    fresh = convert_checkpoint(source, tmp_path / "fresh", **CHOICES)
    assert contents(done.dest) == contents(fresh.dest)
    assert left_behind(old) == []


def with_bad_numbers(value: float) -> Weights:
    weights = hf_weights()
    weights["lm_head.weight"][3, 5] = value
    return weights


def without(name: str) -> Weights:
    return {key: array for key, array in hf_weights().items() if key != name}


def quantized(folder: Path) -> None:
    source = write_hf(folder.parent / "full-precision", hf_weights())
    convert_checkpoint(source, folder, group_size=32)
    shutil.rmtree(source)


def marked(folder: Path, **config: Any) -> None:
    write_hf(folder, hf_weights(), **config)


def truncated(folder: Path) -> None:
    file = write_hf(folder, hf_weights()) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def huge_header(folder: Path) -> None:
    file = write_hf(folder, hf_weights()) / "model.safetensors"
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])


def fp8_without_scale(folder: Path) -> None:
    folder.mkdir()
    write_json(folder / "config.json", HF_CONFIG)
    weights = hf_weights() | {V_PROJ: np.zeros((32, 64), np.uint8)}
    write_safetensors(folder / "model.safetensors", weights, fp8=(V_PROJ,))


def of(weights: Callable[[], Weights]) -> Callable[[Path], object]:
    return lambda folder: write_hf(folder, weights())


SOURCES: dict[str, tuple[Callable[[Path], object], dict[str, Any], str]] = {
    "F64": (of(lambda: hf_weights() | {V_PROJ: np.zeros((32, 64))}), {}, "F64; only BF16, F16"),
    "I64": (of(lambda: hf_weights() | {V_PROJ: np.zeros((32, 64), "i8")}), {}, "is I64; only"),
    "U8": (of(lambda: hf_weights() | {V_PROJ: np.zeros((32, 64), "u1")}), {}, "is U8; only"),
    "FP8 without scale": (fp8_without_scale, {}, "is FP8 and has no scale"),
    "NaN": (of(lambda: with_bad_numbers(np.nan)), {}, "lm_head.weight' holds NaN"),
    "infinity": (of(lambda: with_bad_numbers(-np.inf)), {}, "lm_head.weight' holds NaN"),
    "float16": (of(lambda: with_bad_numbers(7e4)), {"dtype": "float16"}, "use bfloat16"),
    "quantized": (quantized, {}, "is quantized already"),
    "quantized elsewhere": (
        lambda folder: marked(folder, quantization_config={"quant_method": "gptq", "bits": 4}),
        {},
        "'gptq'",
    ),
    "truncated": (truncated, {}, "damaged or truncated"),
    "huge header": (huge_header, {}, "header claims"),
    "no layer": (of(lambda: without(V_PROJ)), {}, f"lack {V_PROJ}"),
    "no head": (of(lambda: without("lm_head.weight")), {}, "lack lm_head.weight"),
    "one more": (of(lambda: hf_weights() | {"extra.weight": np.zeros((2, 64), "f4")}), {}, "extra"),
    "another shape": (of(lambda: hf_weights() | {V_PROJ: np.zeros((32, 32), "f4")}), {}, "shape"),
    "empty tensor": (of(lambda: hf_weights() | {V_PROJ: np.zeros((0, 64), "f4")}), {}, "shape"),
    "group size": (of(hf_weights), {"group_size": 128}, "choose a smaller --group-size"),
    "another family": (lambda folder: marked(folder, model_type="llama"), {}, "model_type"),
    "more layers": (lambda folder: marked(folder, num_hidden_layers=10**6), {}, "layer 2 is miss"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_that_cannot_be_converted(name: str, tmp_path: Path) -> None:
    make, choices, fault = SOURCES[name]
    make(tmp_path / "source")
    choices = {"shard_bytes": 10**9, **choices}
    assert fault in refusal(tmp_path / "source", tmp_path / "out", **choices)


def test_a_fault_found_late_keeps_what_is_finished_and_is_found_again(tmp_path: Path) -> None:
    weights = hf_weights()
    weights["model.norm.weight"][0] = np.nan
    source = write_hf(tmp_path / "source", weights)
    for _ in range(2):
        with pytest.raises(MlxMistralError, match=r"model.norm.weight.*NaN"):
            convert_checkpoint(source, tmp_path / "out", **CHOICES)
        assert left_behind(tmp_path / "out") == [".out.converting"]
        assert not list((tmp_path / ".out.converting").glob("*.part"))


@pytest.mark.parametrize(
    ("choices", "error", "fault"),
    [
        ({"bits": 7}, ConversionError, "bits do not exist"),
        ({"bits": 1}, ConversionError, "bits do not exist"),
        ({"bits": 0}, ConversionError, "bits do not exist"),
        ({"group_size": 16}, ConfigError, "groups one of"),
        ({"mode": "nvfp4", "bits": 8, "group_size": None}, ConfigError, "nvfp4"),
        ({"mode": "mxfp4", "group_size": 64}, ConfigError, "mxfp4"),
        ({"mode": "int4"}, MlxMistralError, "int4"),
        ({"mode": "bf16"}, ConversionError, "--group-size says how"),
        ({"mode": "bf16", "dtype": "float16", "group_size": None}, ConversionError, "differ"),
        ({"mode": "bf16", "bits": 4, "group_size": None}, ConversionError, "differ"),
        ({"mode": "mxfp4", "bits": 16, "group_size": None}, ConversionError, "differ"),
        ({"dtype": "float8"}, ConversionError, "dtype float8 is unknown"),
        ({"recipe": "mixed_9_9"}, MlxMistralError, "bits|recipe"),
        ({"recipe": "best"}, ConversionError, "there is no recipe 'best'"),
        ({"recipe": "mixed_3_6", "bits": 4}, ConversionError, "leave --bits out"),
        ({"recipe": "mixed_3_6", "mode": "mxfp4", "group_size": None}, ConversionError, "mxfp4"),
    ],
    ids=str,
)
def test_choices_that_do_not_go_together(
    choices: dict[str, Any], error: type[Exception], fault: str, source: Path, tmp_path: Path
) -> None:
    text = refusal(source, tmp_path / "out", **choices)
    assert any(one in text for one in fault.split("|"))
    with pytest.raises(error):
        convert_checkpoint(source, tmp_path / "out", **{**CHOICES, **choices})


def test_too_little_room_is_found_before_anything_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**6, 10**6))
    assert "free; make room" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(("call", "n"), [("pwrite", 40), ("ftruncate", 3), ("fsync", 8)])
def test_a_disk_that_fills_up_keeps_finished_files_and_the_next_run_goes_on(
    call: str, n: int, code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dest, calls, real = tmp_path / "out", iter(range(n)), getattr(os, call)

    def full(*args: Any) -> Any:
        if next(calls, None) is None:
            raise OSError(code, os.strerror(code))
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(ConversionError, match=f"the disk of {dest} is full; make room"):
            convert_checkpoint(source, dest, **CHOICES)
    assert not dest.exists()
    assert not list(tmp_path.glob("**/*.part"))
    done = convert_checkpoint(source, dest, **CHOICES)
    assert done.note is not None
    assert "are kept" in done.note
    assert left_behind(dest) == []
    assert contents(dest) == contents(convert_checkpoint(source, tmp_path / "b", **CHOICES).dest)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_folder_that_cannot_be_written_is_one_line(
    code: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused by a stand-in for the system: tests may run as root, whom nothing is forbidden."""
    real = os.mkdir

    def mkdir(path: Any, *args: Any, **options: Any) -> None:
        if Path(path).name == ".out.converting":
            raise OSError(code, os.strerror(code), str(path))
        real(path, *args, **options)

    monkeypatch.setattr(os, "mkdir", mkdir)
    assert "DEST must be in a folder that can be written" in refusal(source, tmp_path / "out")


def test_a_name_too_long_for_the_system_is_one_line(source: Path, tmp_path: Path) -> None:
    assert "File name too long" in refusal(source, tmp_path / ("x" * 250))


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_source_that_changes_while_it_is_read_makes_no_model(
    is_gone: bool, source: Path, tmp_path: Path
) -> None:
    file = source / "model.safetensors"

    def progress(told: Progress) -> None:
        if told.done_bytes == told.total_bytes:
            file.unlink() if is_gone else os.utime(file)

    with pytest.raises(ConversionError, match="changed while it was read"):
        convert_checkpoint(source, tmp_path / "out", **CHOICES, progress=progress)
    assert not (tmp_path / "out").exists()


def test_two_conversions_to_one_place_do_not_meet(source: Path, tmp_path: Path) -> None:
    told = []

    def progress(_: Progress) -> None:
        if not told:
            with pytest.raises(ConversionError) as caught:
                convert_checkpoint(source, tmp_path / "out", **CHOICES)
            told.append(str(caught.value))

    done = convert_checkpoint(source, tmp_path / "out", **CHOICES, progress=progress)
    assert "another process is converting to" in told[0]
    fresh = convert_checkpoint(source, tmp_path / "fresh", **CHOICES)
    assert contents(done.dest) == contents(fresh.dest)
    assert left_behind(done.dest) == []


def test_a_workspace_that_is_a_link_is_not_followed(source: Path, tmp_path: Path) -> None:
    """Whoever may write beside DEST must not make us empty another folder."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("mine")
    (tmp_path / ".out.converting").symlink_to("precious")
    assert "was not made by one; remove it" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize("inside", [False, True])
def test_a_workspace_that_holds_or_is_something_else_is_left_alone(
    inside: bool, source: Path, tmp_path: Path
) -> None:
    folder = tmp_path / ".out.converting"
    if inside:
        (folder / "mine").mkdir(parents=True)
        (folder / "mine" / "thesis.txt").write_text("mine")
    else:
        folder.write_text("mine")
    for _ in range(2):
        assert "was not made by one; remove it" in refusal(source, tmp_path / "out")


@pytest.mark.parametrize("from_the_end", [False, True])
def test_bytes_that_the_disk_does_not_keep_are_noticed(
    from_the_end: bool, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the first file, and in the last, which no other one follows."""
    real, made = os.pwrite, []
    monkeypatch.setattr(os, "pwrite", lambda *args: made.append(args) or real(*args))
    convert_checkpoint(source, tmp_path / "whole", **CHOICES)
    calls = iter(range(len(made) - 1 if from_the_end else 7))

    def careless(descriptor: int, data: memoryview, position: int) -> int:
        if next(calls, None) is None:
            data = memoryview(bytes(data.nbytes - 1) + b"\xff")
        return real(descriptor, data, position)

    monkeypatch.setattr(os, "pwrite", careless)
    with pytest.raises(ConversionError, match="gives back other bytes than were written"):
        convert_checkpoint(source, tmp_path / "out", **CHOICES)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["cut", "gone", "other tensors"])
def test_a_result_that_was_damaged_before_it_is_published_is_not_published(
    damage: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion.write_shards

    def careless(*args: Any) -> None:
        write(*args)
        first, second, *_ = sorted((tmp_path / ".out.converting").glob("*.safetensors"))
        if damage == "cut":
            first.write_bytes(first.read_bytes()[:-1])
        elif damage == "gone":
            first.unlink()
        else:
            first.write_bytes(second.read_bytes())

    monkeypatch.setattr(conversion, "write_shards", careless)
    with pytest.raises(MlxMistralError):
        convert_checkpoint(source, tmp_path / "out", **CHOICES)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_takes_few_bytes_at_a_time_is_written_in_full(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwrite
    whole = contents(convert_checkpoint(source, tmp_path / "whole", **CHOICES).dest)
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: real(to, data[:1000], at))
    assert contents(convert_checkpoint(source, tmp_path / "out", **CHOICES).dest) == whole


def test_no_code_of_a_checkpoint_is_run(tmp_path: Path) -> None:
    """Not even looked at: only files of known names travel along."""
    source = write_hf(tmp_path / "source", {n: bfloat16_bits(a) for n, a in hf_weights().items()})
    (source / "modeling_mistral.py").write_text("raise SystemExit('run')")
    write_json(source / "config.json", {**HF_CONFIG, "auto_map": {"AutoModel": "modeling_mistral"}})
    done = convert_checkpoint(source, tmp_path / "out", **CHOICES)
    assert not list(done.dest.glob("*.py"))
    assert "auto_map" not in (done.dest / "config.json").read_text()
