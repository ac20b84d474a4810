"""How fast a model whose experts are read from disk will be, before it is loaded."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mlx_mistral.errors import CheckpointError, MlxMistralError
from mlx_mistral.files.untrusted import open_regular

from .library import READ_BYTES
from .stream import READERS

_MAC_NO_CACHE = 48
"""F_NOCACHE of macOS, which Python names there alone."""


def expected_hit_rate(slots: int, experts: int, *, shares: Sequence[float] | None = None) -> float:
    """Share of the chosen experts that will be in memory.

        hit rate = sum of the `slots` largest shares / sum of all shares

    slots: experts in memory, of all layers together; experts: all there are.
    shares: how often each of them is chosen, in any unit; by default all alike, where the hit
        rate is slots / experts. Real routers prefer some experts and repeat themselves from
        token to token, so that is the least to expect.
    Raises: MlxMistralError: a count or share is negative, or the shares are not `experts` many.
    """
    if slots < 0 or experts < 1:
        raise MlxMistralError(f"{slots} slots for {experts} experts make no hit rate")
    uses = [1.0] * experts if shares is None else sorted(shares, reverse=True)
    if len(uses) != experts or min(uses) < 0 or not sum(uses) > 0:
        raise MlxMistralError(f"{len(uses)} shares do not say how often {experts} are chosen")
    return sum(uses[:slots]) / sum(uses)


def expected_tps(
    *,
    resident_tps: float,
    hit_rate: float,
    chosen_per_token: int,
    expert_bytes: int,
    disk_bytes_per_second: float,
    hidden: float = 0.0,
) -> float:
    """Tokens a second of decoding one text.

        seconds a token = 1 / resident_tps + (1 - hidden) x reading
        reading         = chosen_per_token x (1 - hit_rate) x expert_bytes / disk speed

    resident_tps: the speed with all experts in memory; chosen_per_token: layers x top-k;
    hidden: share of the reading that goes on while something else computes. 0 is the least;
    reading ahead cannot hide more than what is computed meanwhile.
    Raises: MlxMistralError: a speed is not positive, or a share outside 0 to 1.
    """
    if not (resident_tps > 0 and disk_bytes_per_second > 0):
        raise MlxMistralError("the speeds of memory and disk must be positive")
    if not (0 <= hit_rate <= 1 and 0 <= hidden <= 1):
        raise MlxMistralError("a hit rate and what is hidden are shares, from 0 to 1")
    read_bytes = chosen_per_token * (1 - hit_rate) * expert_bytes
    return 1 / (1 / resident_tps + (1 - hidden) * read_bytes / disk_bytes_per_second)


def measured_disk_speed(path: str | Path, *, max_bytes: int = 256 << 20) -> float:
    """Bytes a second at which a file's disk gives pieces from all over it, read as experts are.

    The system's cache is passed by, where it allows that: on Linux the pieces are dropped from
    it first, on macOS not kept. A machine's own guest disks may still be cached outside.
    Raises: CheckpointError: no readable file, or an empty one.
    """
    path = Path(path)
    file, size = open_regular(path)
    with file:
        if not size:
            raise CheckpointError(f"{path} is empty; it cannot tell how fast its disk is")
        descriptor = file.fileno()
        if sys.platform == "darwin":
            fcntl.fcntl(descriptor, _MAC_NO_CACHE, 1)
        starts = list(range(0, size, READ_BYTES))
        random.Random(0).shuffle(starts)
        starts = starts[: max(1, max_bytes // READ_BYTES)]
        if hasattr(os, "posix_fadvise"):
            for start in starts:
                os.posix_fadvise(descriptor, start, READ_BYTES, os.POSIX_FADV_DONTNEED)
        buffers = [np.zeros(READ_BYTES, np.uint8) for _ in range(READERS)]

        def read(number: int) -> int:
            return sum(
                os.preadv(descriptor, [buffers[number].data], start)
                for start in starts[number::READERS]
            )

        with ThreadPoolExecutor(READERS) as pool:
            begin = time.perf_counter()
            try:
                total = sum(pool.map(read, range(READERS)))
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
            seconds = time.perf_counter() - begin
    return total / max(seconds, 1e-9)
