"""A download that tells how many bytes are here, and that can be ended."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.utils import filter_repo_objects, tqdm

from mlx_mistral.errors import CheckpointError

from .model_name import Repo

Report = Callable[[int, int], bool | None]
"""Told the bytes that are here and those in all, ten times a second; False: it shall end."""

PERIOD_SECONDS = 0.1
GRACE_SECONDS = 1.0
"""A download ends with the piece that is under way; longer nobody waits for it."""


class Silent(tqdm):
    """A progress bar that shows nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def fetch(
    repo: Repo, commit: str, sizes: Mapping[str, int], patterns: Iterable[str], report: Report
) -> Path:
    """Downloads what matches of a repository's files; `report` is called on this thread.

    commit, sizes: what the revision is now, and the bytes of all its files by name.
    Once `report` says False or raises, the download ends; files that are whole stay.
    Raises: CheckpointError: `report` said False. Else as `snapshot_download`.
    """
    work = _Work(repo, list(patterns))
    wanted = {
        name: sizes[name] for name in filter_repo_objects(sizes, allow_patterns=work.patterns)
    }
    total = sum(wanted.values())
    here = sum(size for name, size in wanted.items() if _is_cached(repo.id, commit, name))
    thread = threading.Thread(target=work.run, name="download", daemon=True)
    thread.start()
    try:
        while not work.ended.wait(PERIOD_SECONDS):
            # Also while nothing comes: it may be ended then too.
            if report(min(here + work.received, total), total) is False:
                raise CheckpointError(f"the download of {repo} was stopped; pull it again to go on")
    finally:
        work.unwanted.set()
        if not work.ended.wait(GRACE_SECONDS):
            _abort_native_transfer()
    folder = work.result()
    report(total, total)
    return folder


class _Work:
    """A download on a thread of its own, and the bytes that it has received."""

    def __init__(self, repo: Repo, patterns: list[str]) -> None:
        self.patterns = patterns
        self.received = 0
        self.ended = threading.Event()
        self.unwanted = threading.Event()
        self._repo = repo
        self._folder = Path()
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._folder = Path(
                huggingface_hub.snapshot_download(
                    self._repo.id,
                    revision=self._repo.revision,
                    allow_patterns=self.patterns,
                    tqdm_class=_counting(self),
                )
            )
        except BaseException as error:
            self._error = error
        self.ended.set()

    def result(self) -> Path:
        if self._error is not None:
            raise self._error
        return self._folder


class _UnwantedError(Exception):
    """Ends the library's threads from inside the bar that they move."""


def _counting(work: _Work) -> type[tqdm]:
    """A bar that shows nothing, adds up the bytes of all files, and ends what is unwanted."""
    lock = threading.Lock()

    class Counting(Silent):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # What comes over the network has a bar beside that of what is written.
            is_transfer = str(kwargs.get("name") or "").endswith(".transfer")
            self._is_counted = kwargs.get("unit") == "B" and not is_transfer
            super().__init__(*args, **kwargs)

        def update(self, n: float | None = 1) -> None:
            if work.unwanted.is_set():
                raise _UnwantedError
            if self._is_counted:
                with lock:
                    work.received += int(n or 0)

    return Counting


def _is_cached(repo_id: str, commit: str, name: str) -> bool:
    return isinstance(huggingface_hub.try_to_load_from_cache(repo_id, name, revision=commit), str)


def _abort_native_transfer() -> None:
    """The Hub's native client runs on, and holds up the interpreter's end, unless it is told."""
    if "hf_xet" in sys.modules:
        with contextlib.suppress(ImportError, AttributeError):
            from huggingface_hub.utils._xet import abort_xet_session

            abort_xet_session()
