"""System calls that macOS limits or answers in another way, run here with its answers."""

from __future__ import annotations

import array
import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mistral.checkpoint.torch_pickle import TorchFile
from mlx_mistral.files import disk
from mlx_mistral.sessions.whole_file import write_whole
from mlx_mistral.streaming.files import OpenFiles

INT_MAX = 2**31 - 1
LIMIT = 1000
"""Stands for INT_MAX, so that files stay small."""


@pytest.fixture
def mac_limits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let positioned calls fail above LIMIT bytes as they do on macOS; returns their sizes."""
    read, write, sizes = os.preadv, os.pwrite, []

    def check(n_bytes: int) -> None:
        sizes.append(n_bytes)
        if n_bytes > LIMIT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def preadv(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        check(sum(buffer.nbytes for buffer in buffers))
        return read(descriptor, buffers, offset)

    def pwrite(descriptor: int, data: memoryview, offset: int) -> int:
        check(data.nbytes)
        return write(descriptor, data, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    monkeypatch.setattr(os, "pwrite", pwrite)
    monkeypatch.setattr(disk, "MAX_CALL_BYTES", LIMIT)
    return sizes


def test_one_call_stays_below_the_limit_of_macos() -> None:
    assert 1 << 20 <= disk.MAX_CALL_BYTES <= INT_MAX


def test_large_buffers_are_written_and_read_in_parts(tmp_path: Path, mac_limits: list[int]) -> None:
    values = np.arange(1500, dtype=np.uint16)
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    disk.write_all(descriptor, values.data, 7)
    again = np.zeros_like(values)
    assert disk.read_into(descriptor, again.view(np.uint8).data, 7) == 3000
    assert np.array_equal(again, values)
    assert mac_limits == [1000] * 6
    os.close(descriptor)


def test_short_calls_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.preadv, os.pwrite
    monkeypatch.setattr(os, "preadv", lambda to, buffers, at: read(to, [buffers[0][:7]], at))
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: write(to, data[:3], at))
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    values = array.array("i", range(20))
    disk.write_all(descriptor, memoryview(values), 0)
    buffer = bytearray(80)
    assert disk.read_into(descriptor, memoryview(buffer), 0) == 80
    assert bytes(buffer) == values.tobytes()
    os.close(descriptor)


def test_the_end_of_a_file_ends_a_read_and_nothing_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    descriptor = os.open(path, os.O_RDWR)
    assert disk.read_into(descriptor, memoryview(bytearray(9)), 1) == 2
    assert disk.read_into(descriptor, memoryview(bytearray(9)), 5) == 0
    disk.write_all(descriptor, np.zeros(0, np.float32).data, 0)
    assert path.read_bytes() == b"abc"
    os.close(descriptor)


def test_experts_are_read_in_parts(tmp_path: Path, mac_limits: list[int]) -> None:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 10)
    files, buffer = OpenFiles([path]), bytearray(2500)
    files.read_into(memoryview(buffer), path, 3)
    assert bytes(buffer) == path.read_bytes()[3:2503]
    assert mac_limits == [1000, 1000, 500]
    files.close()


def test_torch_files_are_read_in_parts(tmp_path: Path, mac_limits: list[int]) -> None:
    from tests.checkpoint.writers import write_torch

    values = np.arange(900, dtype=np.float32).reshape(30, 30)
    write_torch(tmp_path / "model.pth", {"weight": values})
    assert np.array_equal(TorchFile(tmp_path / "model.pth").read("weight"), values)
    assert sum(mac_limits) == values.nbytes


class Flushes:
    """Records the flushes of a file and answers F_FULLFSYNC as a file system of macOS."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
        self.calls: list[str] = []
        self.number = number
        monkeypatch.setattr(fcntl, "fcntl", self._control)
        monkeypatch.setattr(os, "fsync", lambda _: self.calls.append("fsync"))

    def _control(self, descriptor: int, command: int) -> int:
        assert command == 51
        self.calls.append("F_FULLFSYNC")
        if self.number is not None:
            raise OSError(self.number, os.strerror(self.number))
        return 0


@pytest.mark.parametrize(
    ("system", "number", "expected"),
    [
        ("linux", None, ["fsync"]),
        ("darwin", None, ["F_FULLFSYNC"]),
        ("darwin", errno.ENOTSUP, ["F_FULLFSYNC", "fsync"]),
        ("darwin", errno.ENOTTY, ["F_FULLFSYNC", "fsync"]),
        ("darwin", errno.EINVAL, ["F_FULLFSYNC", "fsync"]),
    ],
)
def test_a_flush_reaches_the_disk_itself_where_the_file_system_can(
    system: str, number: int | None, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Flushes(monkeypatch, number)
    disk.flush(3, system=system)
    assert flushes.calls == expected


def test_a_disk_that_fails_to_flush_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Flushes(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        disk.flush(3, system="darwin")


def test_a_folder_of_a_network_disk_cannot_be_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(number: int) -> Any:
        def fsync(_: int) -> None:
            raise OSError(number, os.strerror(number))

        return fsync

    for number in (errno.ENOTSUP, errno.EINVAL):
        monkeypatch.setattr(os, "fsync", fails(number))
        disk.flush_folder(3)
    monkeypatch.setattr(os, "fsync", fails(errno.EIO))
    with pytest.raises(OSError, match="Input/output error"):
        disk.flush_folder(3)


def test_a_text_is_flushed_before_it_takes_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Flushes(monkeypatch, None)
    replace = os.replace

    def renamed(*names: Any) -> None:
        flushes.calls.append("replace")
        replace(*names)

    monkeypatch.setattr(os, "replace", renamed)
    write_whole(tmp_path / "settings.toml", "a = 1")
    assert flushes.calls[-1] == "replace"
    assert len(flushes.calls) == 2
