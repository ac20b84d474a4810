"""Prompt caches on disk, within a limit: what is longest unused goes first."""

from __future__ import annotations

import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.segment import can_be_cut, cut, join
from mlx_mistral.errors import CacheError

from . import entry_file, index, plan
from .entry import Entry, Ids
from .eviction import make_room, sweep
from .index import Index
from .limit import default_limit_bytes

INDEX = "index.sqlite3"
SEGMENT_BYTES = 128 << 20
"""Of a file: a text is written in steps between which saving can end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where the beginning of a text is, and how many of its tokens."""

    entry: int
    tokens: int


class PromptCacheStore:
    """Keys and values of texts by their token ids, in files of a folder.

    A text that begins like another one holds only what comes after; a ring that has wrapped is
    held whole, and found by texts that go on from its end. Files are written beside their place
    and renamed, then named in the index, so that nobody sees half of one; whoever loads one that
    is evicted meanwhile finds nothing. Every method raises CacheError where the disk refuses.

    key: see `cache_key`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        limit_bytes: int | None = None,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Writes nothing yet. limit_bytes: of all files; None: see `default_limit_bytes`."""
        self.folder = folder
        self.limit_bytes = limit_bytes
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._index = Index(folder / INDEX)
        self._is_swept = False

    @property
    def nbytes(self) -> int:
        """What the files take."""
        with self._index.open() as rows:
            return index.total_bytes(rows)

    def entries(self) -> list[Entry]:
        """What is held, the longest unused first."""
        with self._index.open() as rows:
            return index.entries(rows)

    def find(self, key: str, token_ids: Sequence[int]) -> Found | None:
        """The longest beginning of a text that is held, all but its last token at most."""
        ids = np.array(token_ids, np.int32)[:-1]
        with self._index.open() as rows:
            held = [(each.shares(ids), each) for each in index.entries(rows, "key = ?", key)]
        tokens, entry = max(held, key=lambda pair: pair[0], default=(0, None))
        return Found(entry=entry.id, tokens=tokens) if entry is not None and tokens else None

    def load(
        self,
        found: Found,
        make: Callable[[], list[KVCache]],
        *,
        pause: Callable[[], None] = lambda: None,
    ) -> tuple[list[KVCache], list[int]] | None:
        """New caches that hold what was found, and its token ids; None: it has been evicted.

        make: the model's new caches. pause: called often; it raises to end the loading.
        Raises: CacheError: a file is damaged or of another kind of cache; it is dropped.
        """
        with self._index.open() as rows:
            entry = next(iter(index.entries(rows, "id = ?", found.entry)), None)
            if entry is None:
                return None
            parts = [one for one in index.chain(rows, entry) if one.start < found.tokens]
            index.touch(rows, [each.id for each in parts], self._clock())
        ends = [*(each.start for each in parts[1:]), found.tokens]
        segments = []
        for part, end in zip(parts, ends, strict=True):
            layers = self._read(part, make, pause)
            if layers is None:
                return None
            for one in layers if end < part.start + layers[0].offset else ():
                one.trim(part.start + one.offset - end)
            segments.append(layers)
            pause()
        layers = segments[0]
        if len(segments) > 1:
            segments = [cut(each, 0, each[0].offset) for each in segments]
            layers = make()
            join(segments, layers)
        return layers, [int(one) for one in entry.ids[: found.tokens]]

    def save(
        self,
        key: str,
        token_ids: Sequence[int],
        layers: Sequence[KVCache],
        *,
        go_on: Callable[[], bool] = lambda: True,
    ) -> int:
        """Puts what caches hold of a text on disk; returns how many of its tokens are there.

        go_on: asked before each file; False ends the saving, and what is written stays.
        """
        if not self._is_swept:
            self._is_swept = True
            with self._index.open() as rows:
                sweep(self.folder, {each.file for each in index.entries(rows)})
        n = layers[0].offset if layers else 0
        ids = np.array(token_ids[:n], np.int32)
        if not n or len(ids) != n:
            return 0
        done = 0
        while done < n and go_on():
            written = self._save_step(key, ids, layers)
            if written <= done:
                break
            done = written
        return done

    def _save_step(self, key: str, ids: Ids, layers: Sequence[KVCache]) -> int:
        """Returns how many tokens are on disk after one more file."""
        n, whole = len(ids), not can_be_cut(layers)
        per_token = max(1, sum(one.nbytes for one in layers) // max(1, layers[0].capacity))
        most = max(plan.MIN_TOKENS, self._segment_bytes // per_token)
        with self._index.open() as rows:
            place = plan.whole(rows, key, ids) if whole else plan.segment(rows, key, ids, most)
            if place is None:
                return n
        end = n if whole else min(n, place.start + most)
        entry = entry_file.write(
            self.folder,
            Entry(
                id=0,
                key=key,
                base=place.base,
                start=place.start,
                ids=ids[:end],
                whole=whole,
                file=f"{uuid.uuid4().hex}.safetensors",
                nbytes=0,
                digest=b"",
            ),
            layers if whole else cut(layers, place.start, end),
        )
        return end if self._admit(entry, place.replaces) else 0

    def _admit(self, entry: Entry, replaces: Sequence[int]) -> bool:
        """Names a file in the index and makes room; False: there is none for it."""
        gone: list[str] = []
        try:
            with self._index.open() as rows:
                if entry.base is not None and not index.entries(rows, "id = ?", entry.base):
                    gone.append(entry.file)
                    return False
                id_ = index.add(rows, entry, self._clock())
                for other in replaces:
                    if not index.has_followers(rows, other):
                        gone += index.remove(rows, other)
                new = index.entries(rows, "id = ?", id_)[0]
                index.touch(rows, [each.id for each in index.chain(rows, new)], self._clock())
                evicted = make_room(rows, self._limit(rows), id_)
                gone += evicted
                return entry.file not in evicted
        except BaseException:
            gone = [entry.file]
            raise
        finally:
            for file in gone:
                (self.folder / file).unlink(missing_ok=True)

    def _limit(self, rows: sqlite3.Connection) -> int:
        if self.limit_bytes is not None:
            return self.limit_bytes
        return default_limit_bytes(self.folder, index.total_bytes(rows))

    def _read(
        self, entry: Entry, make: Callable[[], list[KVCache]], pause: Callable[[], None]
    ) -> list[KVCache] | None:
        layers = make()
        try:
            entry_file.read(self.folder, entry, layers, pause)
        except FileNotFoundError:
            self._drop(entry)
            return None
        except OSError as error:
            path = self.folder / entry.file
            raise CacheError(f"{path} cannot be read: {error.strerror}; check the disk") from error
        except CacheError:
            self._drop(entry)
            raise
        return layers

    def _drop(self, entry: Entry) -> None:
        with self._index.open() as rows:
            files = index.remove(rows, entry.id)
        for file in files:
            (self.folder / file).unlink(missing_ok=True)
