"""Disks of a Mac: names without case, Finder's files, network disks, and memory in bytes."""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_mistral.convert import convert_checkpoint, result
from mlx_mistral.convert.companions import check_names, companions
from mlx_mistral.errors import ConversionError
from mlx_mistral.files.disk import ignores_case
from tests.checkpoint.models import hf_weights, write_hf
from tests.convert.folders import contents

CHOICES: dict[str, Any] = {"group_size": 32, "shard_bytes": 10_000}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_hf(tmp_path / "source", hf_weights())


@pytest.mark.parametrize("dest", ["SOURCE", "PARENT"])
def test_the_source_in_another_spelling_is_still_the_source(
    dest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk without case gives one folder several paths that no link resolves.

    Links that `realpath` does not follow stand for them.
    """
    source = write_hf(tmp_path / "parent" / "source", hf_weights())
    (tmp_path / "parent" / "SOURCE").symlink_to(source, target_is_directory=True)
    (tmp_path / "PARENT").symlink_to(tmp_path / "parent", target_is_directory=True)
    before = contents(source)
    monkeypatch.setattr(os.path, "realpath", os.path.abspath)
    place = tmp_path / "parent" / "SOURCE" if dest == "SOURCE" else tmp_path / "PARENT"
    fault = "is the folder of SOURCE" if dest == "SOURCE" else "holds what is in SOURCE"
    with pytest.raises(ConversionError, match=fault):
        convert_checkpoint(source, place, overwrite=True, **CHOICES)
    assert contents(source) == before


def test_a_folder_that_finder_has_opened_is_still_empty(source: Path, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    dest.mkdir()
    (dest / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    convert_checkpoint(source, dest, **CHOICES)
    assert (dest / "config.json").is_file()
    assert not (dest / ".DS_Store").exists()


def test_any_other_file_makes_a_folder_a_used_one(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").touch()
    (tmp_path / "out" / "notes.txt").touch()
    with pytest.raises(ConversionError, match="exists; choose another DEST"):
        convert_checkpoint(source, tmp_path / "out", **CHOICES)
    assert (tmp_path / "out" / ".DS_Store").exists()


def test_files_whose_names_the_disk_of_dest_confuses_are_an_error(
    source: Path, tmp_path: Path
) -> None:
    (source / "LICENSE").write_text("first")
    (source / "LICENSE.txt").write_text("another")
    (source / "LICENSE.TXT").write_text("second")
    files, dest = companions(source), tmp_path / "out"
    assert {path.name for path in files} >= {"LICENSE", "LICENSE.txt", "LICENSE.TXT"}
    dest.mkdir()
    check_names(files, dest)  # this disk tells the two names apart
    (tmp_path / "OUT").symlink_to(dest)
    assert ignores_case(dest)
    with pytest.raises(ConversionError, match="differ only in upper and lower case"):
        check_names(files, dest)


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK])
def test_a_network_disk_without_locks_takes_a_conversion(
    number: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    assert (convert_checkpoint(source, tmp_path / "out", **CHOICES).dest / "config.json").is_file()


def test_a_lock_that_fails_otherwise_closes_its_folder(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[int] = []
    locked: list[int] = []
    close = os.close

    def flock(descriptor: int, _: int) -> None:
        locked.append(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(os, "close", lambda number: closed.append(number) or close(number))
    with pytest.raises(ConversionError, match="Input/output error"):
        convert_checkpoint(source, tmp_path / "out", **CHOICES)
    assert set(locked) <= set(closed)


def test_a_network_disk_that_cannot_flush_folders_takes_a_conversion(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync, folders = os.fsync, []

    def without_folders(descriptor: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{descriptor}"):
            folders.append(descriptor)
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", without_folders)
    assert (convert_checkpoint(source, tmp_path / "out", **CHOICES).dest / "config.json").is_file()
    assert folders


def test_a_file_that_macos_removed_with_its_twin_is_no_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On exFAT and network disks `._name` holds attributes of `name` and goes with it."""
    unfinished = tmp_path / ".out.converting"
    unfinished.mkdir()
    (unfinished / "model-00001.safetensors.part").touch()
    (unfinished / "._model-00001.safetensors.part").touch()
    unlink = Path.unlink

    def with_twin(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        unlink(path.with_name(f"._{path.name}"), missing_ok=True)

    monkeypatch.setattr(Path, "unlink", with_twin)
    monkeypatch.setattr(
        Path, "iterdir", lambda path: map(path.joinpath, sorted(os.listdir(path))[::-1])
    )
    assert (convert_checkpoint(source, tmp_path / "out", **CHOICES).dest / "config.json").is_file()


@pytest.mark.parametrize(("system", "expected"), [("darwin", 5_000_000), ("linux", 5_120_000_000)])
def test_peak_memory_is_in_bytes_on_macos_and_in_kibibytes_on_linux(
    system: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(sys, "platform", system)
    usage = SimpleNamespace(ru_maxrss=5_000_000)
    monkeypatch.setattr(resource, "getrusage", lambda _: usage)
    assert result.peak_resident_bytes() == expected
