"""Damage to a file is told before it is believed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

BLOCK_BYTES = 4 << 20


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
