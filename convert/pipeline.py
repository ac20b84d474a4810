"""Reads, quantizes and writes slab by slab, the three at the same time.

Memory holds a few slabs, whatever the size of a tensor, a layer or the model.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.device import new_streams, on_gpu
from mlx_mistral.checkpoint.slabs import RawSlab, Slab, SlabReader, decode
from mlx_mistral.config import ModelConfig, QuantParams

from .measured.refine import refine
from .shard_file import ShardFile

AHEAD = 2
"""Slabs that wait for the next stage, and no more."""
MAX_LANES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A slab, what it becomes, and the file that it goes to."""

    slab: Slab
    params: QuantParams | None
    names: tuple[str, ...]
    """Of the tensors that it is part of: weight, or weight, scales and biases."""
    file: ShardFile
    importance: mx.array | None = None
    """How much an error in each column matters, where that was measured. Shapes: (columns,)."""


class Pipeline:
    """Three stages, each on a thread of its own; MLX stays on the caller's.

    Leaving it waits for the slabs on their way; an error of any stage comes out of `run`.
    """

    def __init__(self, config: ModelConfig, dtype: mx.Dtype) -> None:
        self._config, self._dtype = config, dtype
        self._reader = SlabReader(dtype)
        self._reading = ThreadPoolExecutor(1, "read")
        self._writing = ThreadPoolExecutor(1, "write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._reading, self._writing):
            pool.shutdown(wait=True, cancel_futures=True)
        self._reader.close()

    def run(self, tasks: Iterable[Task], progress: Callable[[Slab], None]) -> None:
        """Returns when all is handed to the system; raises what any stage raised."""
        try:
            self._compute(tasks, progress)
            while self._pending:
                self._pending.popleft().result()
        finally:
            # The caller closes files next, and nothing may be on its way to one.
            wait(self._pending)
            self._pending.clear()
            mx.clear_cache()

    def _compute(self, tasks: Iterable[Task], progress: Callable[[Slab], None]) -> None:
        lanes = _lanes()
        computing: deque[tuple[Task, list[mx.array]]] = deque()
        for number, (task, raw) in enumerate(self._read(tasks)):
            with mx.stream(lanes[number % len(lanes)]):
                outputs = quantized_bytes(
                    decode(raw, self._config, self._dtype), task.params, task.importance
                )
                mx.async_eval(outputs)
            computing.append((task, outputs))
            if len(computing) > len(lanes):
                self._hand_over(*computing.popleft(), progress)
        while computing:
            self._hand_over(*computing.popleft(), progress)

    def _read(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, RawSlab]]:
        ahead: deque[tuple[Task, Future[RawSlab]]] = deque()
        for task in tasks:
            ahead.append((task, self._reading.submit(self._reader.read, task.slab)))
            if len(ahead) > AHEAD:
                first, future = ahead.popleft()
                yield first, future.result()
        for first, future in ahead:
            yield first, future.result()

    def _hand_over(
        self, task: Task, outputs: list[mx.array], progress: Callable[[Slab], None]
    ) -> None:
        mx.eval(outputs)
        if len(self._pending) >= AHEAD:
            self._pending.popleft().result()
        self._pending.append(self._writing.submit(_write, task, outputs))
        progress(task.slab)


def quantized_bytes(
    rows: mx.array, params: QuantParams | None, importance: mx.array | None = None
) -> list[mx.array]:
    """The bytes that rows are stored as: themselves, or packed words, scales and biases.

    Shapes: (rows, columns), (columns,) -> (rows, bytes) each. Lazy without importance.
    """
    parts: Any = [rows]
    if params is not None and importance is not None:
        parts = refine(rows, params, importance)
    elif params is not None:
        parts = mx.quantize(rows, group_size=params.group_size, bits=params.bits, mode=params.mode)
    return [part.view(mx.uint8) for part in parts]


def _write(task: Task, outputs: list[mx.array]) -> None:
    for name, rows in zip(task.names, outputs, strict=True):
        task.file.write(name, task.slab.first_row, np.asarray(rows).reshape(-1).data)


@cache
def _lanes() -> tuple[Any, ...]:
    """Where slabs are computed: one after the other on a GPU, side by side on CPU cores."""
    count = 1 if on_gpu() else min(os.cpu_count() or 1, MAX_LANES)
    return tuple(new_streams(count))
