"""How fast this machine moves memory, and how fast it multiplies: the two limits of speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.device import on_gpu
from mlx_mistral.memory.chips import this_chip

COPIED_BYTES = 256 << 20
"""More than any processor's caches hold."""
ROUNDS = 5
MATRIX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth:
    """Bytes a second between memory and processor, and who says so."""

    bytes_per_second: float
    source: str


def memory_bandwidth(*, n_bytes: int | None = None, gpu_cores: int | None = None) -> Bandwidth:
    """Return a known chip's published bandwidth, else that of the faster of two copies.

    gpu_cores: of this Mac, which decide between variants of a chip.
    n_bytes: the size of what is copied; a copy reads as much and writes as much.
    """
    chip = this_chip(gpu_cores=gpu_cores)
    if chip is None:
        return _copied(n_bytes or COPIED_BYTES)
    return Bandwidth(bytes_per_second=chip.bandwidth_gbs * 1e9, source=f"nominal, {chip.name}")


def matrix_flops(dtype: mx.Dtype, *, size: int | None = None) -> float:
    """Multiplications and additions a second of a large matrix product, the best of a few."""
    size = size or MATRIX
    a, b = mx.random.normal((size, size)).astype(dtype), mx.random.normal((size, size))
    b = b.astype(dtype)
    mx.eval(a, b)
    return 2 * size**3 / _best(lambda: mx.eval(a @ b))


def _copied(n_bytes: int) -> Bandwidth:
    words = max(1, n_bytes // 4)
    source = mx.zeros((words,), mx.float32)
    mx.eval(source)
    seconds = {"a copy by MLX": _best(lambda: mx.eval(source + 1.0))}
    if not on_gpu():
        target, original = np.ones(words, np.float32), np.ones(words, np.float32)
        seconds["a copy by NumPy"] = _best(lambda: np.copyto(target, original))
    best = min(seconds, key=lambda name: seconds[name])
    return Bandwidth(bytes_per_second=2 * 4 * words / seconds[best], source=f"measured: {best}")


def _best(work: Callable[[], object]) -> float:
    work()
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return max(min(times), 1e-9)
