"""The folder beside DEST in which a conversion grows, until it is whole and takes DEST's name.

A process that is killed leaves this folder behind and DEST untouched. The next run of the same
conversion goes on from the finished shards; another conversion to the same DEST starts anew.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlx_mistral.errors import CheckpointError, ConversionError
from mlx_mistral.files.disk import flush, flush_folder
from mlx_mistral.files.untrusted import read_json

from .shard_file import UNFINISHED

JOB = ".job.json"
"""What is being made, and which shards of it are finished. Gone when the folder is whole."""
FINDER_FILE = ".DS_Store"
"""Finder's settings of a folder, which do not make it a used one."""
_NO_LOCKS = (errno.ENOTSUP, errno.ENOLCK)
"""Answers of network disks without file locks, on which a conversion runs unlocked."""
MANIFEST = "conversion.json"
"""In the result: each file's bytes and SHA-256."""


class Workspace:
    """The unfinished result of one conversion, held by one process."""

    def __init__(self, dest: Path, fingerprint: str) -> None:
        """fingerprint: names source and plan; equal ones make equal bytes.

        Raises: ConversionError: another process is at it, or the folder cannot be made.
        """
        self.dest = dest
        self.folder = dest.parent / f".{dest.name}.converting"
        self._replaced = dest.parent / f".{dest.name}.replaced"
        self._fingerprint = fingerprint
        self._digests: dict[str, str] = {}
        self.note: str | None = None
        """What was found of an earlier run; None where there was none."""
        self._is_published = False
        dest.parent.mkdir(parents=True, exist_ok=True)
        was_there = os.path.lexists(self.folder)
        self._lock = self._make_and_lock()
        try:
            if was_there:
                self._put_back()
            self._resume()
        except BaseException:
            os.close(self._lock)
            raise

    @property
    def finished(self) -> Mapping[str, str]:
        """Shards that an earlier run or this one completed: name to SHA-256."""
        return self._digests

    def record(self, name: str, digest: str) -> None:
        """A shard is finished: from here on it is not made again."""
        self._digests[name] = digest
        self._write_job()

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Another file of the result."""
        replace_json(self.folder / name, value)

    def publish(self, *, overwrite: bool) -> None:
        """Gives the folder DEST's name. Raises: ConversionError: DEST has appeared meanwhile."""
        for entry in self.folder.iterdir():
            _sync(entry)
        _sync(self.folder)
        with suppress(OSError):  # Finder writes it into a folder that a person opens
            (self.dest / FINDER_FILE).unlink()
        if overwrite and self.dest.exists():
            shutil.rmtree(self._replaced, ignore_errors=True)
            os.rename(self.dest, self._replaced)
        try:
            os.rename(self.folder, self.dest)
        except OSError as error:
            self._put_back()
            raise ConversionError(
                f"{self.dest} has appeared while it was being made ({error.strerror}); the "
                f"result is whole and lies in {self.folder}"
            ) from None
        self._is_published = True
        (self.dest / JOB).unlink(missing_ok=True)
        _sync(self.dest)
        _sync(self.dest.parent)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def close(self) -> None:
        """Lets go of the folder. Of an unfinished one, finished shards stay for the next run."""
        if self._lock < 0:
            return
        try:
            if not self._is_published:
                self._clear()
        finally:
            os.close(self._lock)
            self._lock = -1

    def _make_and_lock(self) -> int:
        """Returns the descriptor that holds the lock. A link could lead anywhere: it is refused."""
        try:
            self.folder.mkdir(exist_ok=True)
            flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(self.folder, flags)
        except (FileExistsError, NotADirectoryError):
            raise _in_the_way(self.folder) from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _in_the_way(self.folder) from None
            raise
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise ConversionError(
                f"another process is converting to {self.dest}; wait for it, or choose another DEST"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(lock)
                raise
        return lock

    def _clear(self) -> None:
        """Gives back the room of what the next run could not use."""
        if not self._digests:
            shutil.rmtree(self.folder, ignore_errors=True)
            return
        with suppress(OSError):
            for path in self.folder.glob(f"*{UNFINISHED}"):
                path.unlink()

    def _put_back(self) -> None:
        """Undoes a replacement that was stopped between its two renames."""
        if self._replaced.is_dir() and not self.dest.exists():
            os.rename(self._replaced, self.dest)

    def _resume(self) -> None:
        job = self._read_job()
        is_ours = job is not None and job.get("fingerprint") == self._fingerprint
        if job is not None and is_ours:
            self._digests = {
                name: digest
                for name, digest in dict(job.get("finished") or {}).items()
                if sha256(self.folder / name) == digest
            }
        leftovers = [path for path in self.folder.iterdir() if path.name not in self._digests]
        for path in leftovers:
            if path.is_dir() and not path.is_symlink():
                raise _in_the_way(path)
        for path in leftovers:
            path.unlink(missing_ok=True)  # `._name` goes with its file on a Mac's foreign disks
        if self._digests:
            self.note = f"an earlier run was stopped; {len(self._digests)} files of it are kept"
        elif is_ours:
            self.note = "an earlier run was stopped before it finished a file; starting anew"
        elif leftovers:
            self.note = "an earlier run made something else of this; starting anew"
        self._write_job()

    def _read_job(self) -> Mapping[str, Any] | None:
        try:
            return read_json(self.folder / JOB)
        except CheckpointError:
            return None

    def _write_job(self) -> None:
        self.write_json(JOB, {"fingerprint": self._fingerprint, "finished": self._digests})


def _in_the_way(path: Path) -> ConversionError:
    return ConversionError(
        f"{path} is in the way of this conversion and was not made by one; remove it"
    )


def sha256(path: Path) -> str | None:
    """The hash of a file; None where there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def replace_json(path: Path, value: Mapping[str, Any]) -> None:
    """All of it or nothing, whenever the process ends."""
    unfinished = path.with_name(f"{path.name}{UNFINISHED}")
    unfinished.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    _sync(unfinished)
    os.replace(unfinished, path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        (flush_folder if path.is_dir() else flush)(descriptor)
    finally:
        os.close(descriptor)
