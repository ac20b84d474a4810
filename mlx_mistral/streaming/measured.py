"""What this machine does: how fast its disk gives experts, and how fast they are multiplied."""

from __future__ import annotations

import fcntl
import os
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.untrusted import open_regular
from mlx_mistral.model.moe import ExpertLinear

from .library import READ_BYTES
from .stream import READERS

_MAC_NO_CACHE = 48
"""F_NOCACHE of macOS, which Python names there alone."""
_PROBE_BYTES = 64 << 20
"""Of the matrices that are multiplied: more than caches hold."""
_TRIALS = 5
_GATE = "model.layers.0.block_sparse_moe.switch_mlp.gate_proj"


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


def measured_weight_speed(config: ModelConfig, dtype: str) -> float:
    """Bytes of experts a second that this device multiplies by one token, as they are stored.

    By that, and by what a token reads of all weights, it decodes with every expert in memory.
    dtype: of activations, by its name in MLX.
    """
    assert config.moe is not None
    n_experts, rows = config.moe.num_experts, config.hidden_dim
    while n_experts > 1 and _nbytes(_matrices(config, dtype, n_experts, rows)) > _PROBE_BYTES:
        n_experts //= 2
    while rows > 64 and _nbytes(_matrices(config, dtype, n_experts, rows)) > _PROBE_BYTES:
        rows = rows // 2 // 64 * 64
    matrices = _matrices(config, dtype, n_experts, rows)
    matrices.update(tree_map(mx.zeros_like, matrices.parameters()))
    x = mx.ones((n_experts, 1, config.dim), getattr(mx, dtype))
    mx.eval(matrices.parameters(), x)
    took = []
    for _ in range(_TRIALS):
        start = time.perf_counter()
        mx.eval(matrices(x, mx.arange(n_experts, dtype=mx.uint32)))
        took.append(time.perf_counter() - start)
    return _nbytes(matrices) / max(median(took), 1e-9)


def _matrices(config: ModelConfig, dtype: str, n_experts: int, rows: int) -> nn.Module:
    """A layer's first stack of matrices, or so much of it; not computed yet."""
    params = config.quantization.for_path(_GATE) if config.quantization else None
    stack = ExpertLinear(n_experts, config.dim, rows)
    stack.set_dtype(getattr(mx, dtype))
    if params is None:
        return stack
    return stack.to_quantized(params.group_size, params.bits, params.mode)


def _nbytes(module: nn.Module) -> int:
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    return sum(one.nbytes for one in parameters.values())
