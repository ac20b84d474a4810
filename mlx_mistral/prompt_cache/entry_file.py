"""The file of an entry: damage to it is told before it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mlx_mistral.cache import KVCache, load_cache, save_cache
from mlx_mistral.errors import CacheError

from .entry import Entry

BLOCK_BYTES = 4 << 20


def write(folder: Path, entry: Entry, layers: Sequence[KVCache]) -> Entry:
    """Writes what caches hold; the entry with its file's size and checksum.

    Raises: CacheError: the disk refuses.
    """
    path, ids = folder / entry.file, entry.ids.tolist()
    save_cache(path, layers, fingerprint=entry.key, token_ids=ids, checksum=False)
    try:
        return replace(entry, nbytes=path.stat().st_size, digest=digest(path))
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}; check the disk") from error


def read(folder: Path, entry: Entry, layers: Sequence[KVCache], pause: Callable[[], None]) -> None:
    """Fills new caches. pause: called often; it raises to end the reading.

    Raises: FileNotFoundError: it has been evicted, maybe just now. OSError: the disk refuses.
        CacheError: it is damaged, or of another text or kind of cache.
    """
    path = folder / entry.file
    if path.stat().st_size != entry.nbytes or digest(path, pause) != entry.digest:
        raise CacheError(f"{path} is damaged; it is dropped, and the text is read again")
    try:
        ids = load_cache(path, layers, fingerprint=entry.key, is_checked=True)
    except CacheError as error:
        if not path.exists():
            raise FileNotFoundError(path) from error
        raise
    if ids != entry.ids.tolist():
        raise CacheError(f"{path} is of another text; it is dropped")


def digest(path: Path, pause: Callable[[], None] = lambda: None) -> bytes:
    """SHA-256 of a file, header and payload alike; `pause` is called every few megabytes.

    Raises: OSError: it cannot be read.
    """
    sum_ = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            sum_.update(block)
            pause()
    return sum_.digest()
