"""A watch on a program that makes tokens."""

from __future__ import annotations

import time
from collections.abc import Generator
from itertools import islice

import mlx.core as mx

from .program import Trial

Steps = Generator[list[int], None, None]
"""Yields each text's next token."""


def timed(steps: Steps, gen_tokens: int) -> Trial:
    """Takes the first token of each text and `gen_tokens` more, then ends the program's work."""
    mx.clear_cache()
    mx.reset_peak_memory()
    began = time.perf_counter()
    taken = [next(steps)]
    first = time.perf_counter()
    taken.extend(islice(steps, gen_tokens))
    last = time.perf_counter()
    steps.close()
    mx.synchronize()
    return Trial(
        first_seconds=first - began,
        decode_seconds=last - first if gen_tokens else 0.0,
        peak_bytes=mx.get_peak_memory(),
        tokens=[list(row) for row in zip(*taken, strict=True)],
    )
