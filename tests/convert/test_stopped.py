"""Wherever a conversion is killed, DEST is absent or whole, and the next run finishes it."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mistral.convert import Conversion, Progress, convert_checkpoint
from mlx_mistral.convert.shard_file import ShardFile
from mlx_mistral.errors import ConversionError
from tests.checkpoint.models import hf_weights, write_hf
from tests.convert.folders import contents, left_behind

CHOICES: dict[str, Any] = {"group_size": 32, "shard_bytes": 5_000}
JOB = ".job.json"


class Killed(BaseException):
    """Stands for the end of the process."""


class Death:
    """Kills at the n-th of the calls that change the disk; a dead process changes nothing more."""

    CALLS = (
        (os, "pwrite"), (os, "ftruncate"), (os, "fsync"), (os, "replace"), (os, "rename"),
        (os, "unlink"), (os, "mkdir"), (shutil, "rmtree"), (Path, "write_text"),
    )  # fmt: skip

    def __init__(self, patch: pytest.MonkeyPatch, at: int | None, *, when: str = "before") -> None:
        """when: before the call is done, after it, or half-way through what it writes."""
        self._at, self._when = at, when
        self.calls: list[str] = []
        self.is_dead = False
        for owner, name in self.CALLS:
            patch.setattr(owner, name, self._deadly(name, getattr(owner, name)))

    def _deadly(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def deadly(*args: Any, **options: Any) -> Any:
            self.calls.append(name)
            if self.is_dead:
                raise Killed
            if len(self.calls) - 1 != self._at:
                return call(*args, **options)
            self.is_dead = True
            if self._when == "halfway" and name == "pwrite":
                call(args[0], args[1][: args[1].nbytes // 2], args[2])
            elif self._when == "after":
                with suppress(OSError):
                    call(*args, **options)
            raise Killed

        return deadly


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer, and a file that travels along."""
    weights = {name: a for name, a in hf_weights().items() if ".layers.1." not in name}
    folder = tmp_path_factory.mktemp("stopped") / "source"
    write_hf(folder, weights, num_hidden_layers=1)
    (folder / "LICENSE").write_text("as you like")
    return folder


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted conversion makes."""
    dest = tmp_path_factory.mktemp("whole") / "out"
    return contents(convert_checkpoint(source, dest, **CHOICES).dest)


@pytest.fixture(scope="module")
def old(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Another conversion, to be replaced."""
    dest = tmp_path_factory.mktemp("old") / "out"
    return contents(convert_checkpoint(source, dest, mode="mxfp4").dest)


def restore(files: dict[str, bytes], folder: Path) -> None:
    folder.mkdir()
    for name, raw in files.items():
        (folder / name).write_bytes(raw)


def without_job(files: dict[str, bytes]) -> dict[str, bytes]:
    """The record of the work, which a kill in the very last moment leaves in the result."""
    return {name: raw for name, raw in files.items() if name != JOB}


def finished_shards(dest: Path) -> int | None:
    """As the record tells; None where there is none."""
    try:
        job = json.loads((dest.parent / f".{dest.name}.converting" / JOB).read_text())
    except FileNotFoundError:
        return None
    return len(job["finished"])


def check_next_run(
    dest: Path, whole: dict[str, bytes], run: Callable[[], Conversion], *, overwrite: bool = False
) -> None:
    """It says what it found, goes on, and ends with the same bytes."""
    if not overwrite and dest.exists():
        assert without_job(contents(dest)) == whole
        with pytest.raises(ConversionError, match="exists"):
            run()
        assert left_behind(dest) == []
        return
    count = finished_shards(dest)
    seen = list(dest.parent.glob(f".{dest.name}.converting/*"))
    done = run()
    assert contents(dest) == whole
    assert left_behind(dest) == []
    if count:
        assert done.note == f"an earlier run was stopped; {count} files of it are kept"
    elif count == 0:
        assert done.note is not None
        assert "starting anew" in done.note
    elif not seen:
        assert done.note is None


def count_calls(source: Path, dest: Path, **choices: Any) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        death = Death(patch, None)
        convert_checkpoint(source, dest, **CHOICES, **choices)
    return death.calls


def points(calls: list[str], number: int, seed: int) -> list[int]:
    """Random ones, and everything from just before the folder takes DEST's name on."""
    critical = range(calls.index("rename") - 2, len(calls))
    return sorted({*random.Random(seed).sample(range(len(calls)), number), *critical})


@pytest.mark.parametrize("when", ["before", "halfway", "after"])
def test_killed_at_any_call_dest_is_absent_or_whole_and_the_next_run_finishes(
    when: str, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    calls = count_calls(source, tmp_path / "count")
    assert len(whole) > 8, "several shards are wanted"
    for at in points(calls, 7, seed=len(when)):
        dest = tmp_path / f"out-{at}"
        with pytest.MonkeyPatch.context() as patch:
            death = Death(patch, at, when=when)
            with pytest.raises(Killed):
                convert_checkpoint(source, dest, **CHOICES)
        assert death.is_dead
        assert not dest.exists() or without_job(contents(dest)) == whole, (at, calls[at])
        check_next_run(dest, whole, lambda dest=dest: convert_checkpoint(source, dest, **CHOICES))


@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_while_it_replaces_a_model_the_old_or_the_new_one_stands(
    when: str, source: Path, whole: dict[str, bytes], old: dict[str, bytes], tmp_path: Path
) -> None:
    """Between two renames neither does, and the next run puts the old one back before it works."""
    restore(old, tmp_path / "count")
    calls = count_calls(source, tmp_path / "count", overwrite=True)
    absent = 0
    for at in points(calls, 2, seed=7):
        dest = tmp_path / f"out-{at}"
        restore(old, dest)
        with pytest.MonkeyPatch.context() as patch:
            Death(patch, at, when=when)
            with pytest.raises(Killed):
                convert_checkpoint(source, dest, overwrite=True, **CHOICES)
        if not dest.exists():
            absent += 1
            with pytest.raises(ConversionError, match=r"exists; .*--overwrite"):
                convert_checkpoint(source, dest, **CHOICES)
            assert contents(dest) == old
        else:
            assert without_job(contents(dest)) in (old, whole), (at, calls[at])
        check_next_run(
            dest,
            whole,
            lambda dest=dest: convert_checkpoint(source, dest, overwrite=True, **CHOICES),
            overwrite=True,
        )
    assert absent > 0


def test_an_old_model_that_was_replaced_does_not_come_back(
    source: Path, whole: dict[str, bytes], old: dict[str, bytes], tmp_path: Path
) -> None:
    """Killed before the old one's remains are gone; then the new one is removed by hand."""
    dest = tmp_path / "out"
    restore(old, dest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)
        convert_checkpoint(source, dest, overwrite=True, **CHOICES)
    assert left_behind(dest) == [".out.replaced"]
    shutil.rmtree(dest)
    convert_checkpoint(source, dest, **CHOICES)
    assert contents(dest) == whole
    assert left_behind(dest) == []


CHILD = """
import os, signal, sys
from mlx_mistral.convert import convert_checkpoint, workspace

source, dest, what, n = sys.argv[1:]
left = int(n)

def count(*_, **__):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)

def deadly(call):
    def counted(*args, **options):
        count()
        return call(*args, **options)
    return counted

if what in ("pwrite", "fsync", "rename"):
    setattr(os, what, deadly(getattr(os, what)))
if what == "record":
    workspace.Workspace.record = deadly(workspace.Workspace.record)
convert_checkpoint(
    source, dest, group_size=32, shard_bytes=5_000, progress=count if what == "progress" else None
)
"""


def test_killed_by_the_system_at_random_points_it_resumes(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    chosen = random.Random(3)
    kills = [
        ("progress", chosen.randrange(12)),
        ("pwrite", chosen.randrange(30)),
        ("fsync", chosen.randrange(12)),
        ("rename", 0),
        ("record", chosen.randrange(4)),
    ]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(CHILD), source, tmp_path / what, what, str(n)]
        )
        for what, n in kills
    ]
    for (what, n), child in zip(kills, children, strict=True):
        assert child.wait(60) == -signal.SIGKILL, (what, n)
        dest = tmp_path / what
        assert not dest.exists()
        check_next_run(dest, whole, lambda dest=dest: convert_checkpoint(source, dest, **CHOICES))


def interrupted_at(n: int) -> Callable[[Progress], None]:
    calls = iter(range(n))

    def progress(_: Progress) -> None:
        if next(calls, None) is None:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("n", [0, 1, 3, 6, 9])
def test_an_interrupt_keeps_every_shard_that_was_whole_by_then_and_no_half_one(
    n: int, source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest, seen = tmp_path / "out", []
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, dest, **CHOICES, progress=interrupted_at(n))
    assert not dest.exists()
    kept = finished_shards(dest)
    assert (kept is None) == (left_behind(dest) == [])
    assert (kept or 0) == len(list(tmp_path.glob(".out.converting/*.safetensors")))
    assert bool(kept) == (n > 0)
    assert not list(tmp_path.glob("**/*.part"))
    done = convert_checkpoint(source, dest, **CHOICES, progress=seen.append)
    assert contents(dest) == whole
    if kept:
        assert done.note == f"an earlier run was stopped; {kept} files of it are kept"
    assert seen[-1].done_bytes == seen[-1].total_bytes == done.source_bytes
    assert all(a.done_bytes <= b.done_bytes for a, b in itertools.pairwise(seen))


def test_files_are_closed_when_nothing_is_on_its_way_to_them(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late write would go to whatever file has the number by then."""
    closed, was_open = threading.Event(), []
    close, write = ShardFile.close, ShardFile.write

    def closing(file: ShardFile) -> None:
        closed.set()
        close(file)

    def writing(file: ShardFile, *args: Any) -> None:
        was_open.append(not closed.wait(0.1))
        write(file, *args)

    monkeypatch.setattr(ShardFile, "close", closing)
    monkeypatch.setattr(ShardFile, "write", writing)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, tmp_path / "out", group_size=32, progress=interrupted_at(0))
    assert was_open
    assert all(was_open)


def test_shards_of_another_job_are_not_taken_over(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, dest, bits=8, **CHOICES, progress=interrupted_at(6))
    assert finished_shards(dest)
    done = convert_checkpoint(source, dest, **CHOICES)
    assert done.note == "an earlier run made something else of this; starting anew"
    assert contents(dest) == whole


def test_a_source_that_changed_meanwhile_starts_anew(source: Path, tmp_path: Path) -> None:
    mine, dest = tmp_path / "source", tmp_path / "out"
    shutil.copytree(source, mine)
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(mine, dest, **CHOICES, progress=interrupted_at(6))
    assert finished_shards(dest)
    weights = {name: a for name, a in hf_weights(seed=5).items() if ".layers.1." not in name}
    write_hf(mine, weights, num_hidden_layers=1)
    os.utime(mine / "model.safetensors", ns=(1, 1))
    done = convert_checkpoint(mine, dest, **CHOICES)
    assert done.note == "an earlier run made something else of this; starting anew"
    fresh = convert_checkpoint(mine, tmp_path / "fresh", **CHOICES)
    assert contents(dest) == contents(fresh.dest)


def test_a_kept_shard_that_was_damaged_is_made_again(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(source, dest, **CHOICES, progress=interrupted_at(8))
    count = finished_shards(dest)
    assert count is not None
    assert count > 1
    shard = sorted((tmp_path / ".out.converting").glob("*.safetensors"))[0]
    raw = np.frombuffer(shard.read_bytes(), np.uint8).copy()
    raw[-1] ^= 1
    shard.write_bytes(raw.tobytes())
    done = convert_checkpoint(source, dest, **CHOICES)
    assert done.note == f"an earlier run was stopped; {count - 1} files of it are kept"
    assert contents(dest) == whole


def test_dest_that_appears_meanwhile_is_not_touched_and_nothing_is_lost(
    source: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    dest = tmp_path / "out"

    def progress(_: Progress) -> None:
        dest.mkdir(exist_ok=True)
        (dest / "mine.txt").write_text("mine")

    with pytest.raises(ConversionError, match="has appeared while it was being made"):
        convert_checkpoint(source, dest, **CHOICES, progress=progress)
    assert contents(dest) == {"mine.txt": b"mine"}
    count = finished_shards(dest)
    shutil.rmtree(dest)
    done = convert_checkpoint(source, dest, **CHOICES)
    assert done.note == f"an earlier run was stopped; {count} files of it are kept"
    assert contents(dest) == whole
