"""One decode step from outside: the time that its thread takes, and the kernels it launches.

Both are seen where a step is handed to the device, in `mx.async_eval`, so that every program is
measured alike and none has to help.
"""

from __future__ import annotations

import io
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import use_backend
from mlx_mistral.bench import Program

STEPS, SKIPPED = 48, 8
FREE = frozenset(
    "Broadcast Depends ExpandDims Flatten Reshape Slice Split Squeeze StopGradient Transpose "
    "Unflatten AsStrided View".split()
)
"""Primitives that make another view of an array and launch nothing."""
COPIES = frozenset("AsType Concatenate Contiguous Copy".split())
_NODE = re.compile(r'\[label ="([^"]*)", shape=rectangle\]')


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """Milliseconds for each token, medians over the steps of one run."""

    build_ms: float
    """Processor time of the loop's own thread, until a step's graph is handed over."""
    submit_ms: float
    """The same, within `mx.async_eval`: encoding and dispatching what was handed over."""
    kernels_ms: float
    """Processor time of all other threads of the process: what MLX computes."""
    token_ms: float
    """From token to token, by the clock."""

    @property
    def host_ms(self) -> float:
        """What one step takes of the loop's thread."""
        return self.build_ms + self.submit_ms


def host_time(program: Program, *, steps: int = STEPS) -> HostTime:
    """The decode steps of one run."""
    looks: list[_Look] = []
    with watched(looks):
        program.run([[1]], steps)
    pairs = list(pairwise(looks[SKIPPED:]))
    return HostTime(
        build_ms=1000 * median(after.thread - before.thread_end for before, after in pairs),
        submit_ms=1000 * median(one.thread_end - one.thread for one, _ in pairs),
        kernels_ms=1000
        * median(
            (after.process - before.process) - (after.thread - before.thread)
            for before, after in pairs
        ),
        token_ms=1000 * median(after.clock - before.clock for before, after in pairs),
    )


def launches(start: Callable[[], Program]) -> Counter[str]:
    """Primitives of one decode step that launch a kernel, as on a GPU; view-makers left out.

    On the CPU backend `mx.fast` spells its kernels out in many primitives; on a GPU each is one.
    So while the program runs here, a softmax, which no compiler fuses, stands in for each, and
    who asks for the device is told of a GPU. Tokens would mean nothing: the step after the prompt
    is looked at, and never computed.
    """
    looks: list[_Look] = []
    program = start()
    with _as_on_a_gpu(), suppress(_Enough), watched(looks, only_graphs=2):
        program.run([[1]], SKIPPED)
    program.close()
    counted = Counter(_NODE.findall(looks[-1].graph))
    return Counter({name: n for name, n in counted.items() if name not in FREE})


class _Enough(Exception):
    """What was to be seen was seen."""


@dataclass(slots=True)
class _Look:
    """One call of `mx.async_eval`: readings before it, one after it, and what it was given."""

    clock: float
    thread: float
    process: float
    thread_end: float = 0.0
    graph: str = ""


@contextmanager
def watched(looks: list[_Look], *, only_graphs: int = 0) -> Iterator[None]:
    """Looks at every `mx.async_eval` meanwhile.

    only_graphs: looks at so many graphs, and ends the run by `_Enough` with the last.
    """
    real = mx.async_eval

    def async_eval(*outputs: Any) -> None:
        look = _Look(time.perf_counter(), time.thread_time(), time.process_time())
        looks.append(look)
        if only_graphs:
            look.graph = _graph(outputs)
            if len(looks) == only_graphs:
                raise _Enough
        real(*outputs)
        look.thread_end = time.thread_time()

    mx.async_eval = async_eval
    try:
        yield
    finally:
        mx.async_eval = real


def _graph(outputs: Any) -> str:
    arrays = [array for _, array in tree_flatten(outputs) if isinstance(array, mx.array)]
    buffer = io.StringIO()
    mx.export_to_dot(buffer, *arrays)
    return buffer.getvalue()


class _FusingBackend(CPUBackend):
    """The CPU backend with fused kernels, which a C++ compiler builds once and MLX keeps."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return Backend.compile(self, function)


def fused_on_cpu() -> AbstractContextManager[Backend]:
    """Fuse element-wise kernels of this program's steps on the CPU, as on a GPU."""
    return use_backend(_FusingBackend())


@contextmanager
def _as_on_a_gpu() -> Iterator[None]:
    names = ("rms_norm", "rope", "scaled_dot_product_attention")
    real = {name: getattr(mx.fast, name) for name in names}

    def stand_in(x: mx.array, *others: Any, **named: Any) -> mx.array:
        arrays = [one for one in (*others, *named.values()) if isinstance(one, mx.array)]
        return mx.depends([mx.softmax(x, axis=-1)], arrays)[0] if arrays else mx.softmax(x, axis=-1)

    for name in names:
        setattr(mx.fast, name, stand_in)
    try:
        with use_backend("mlx"):
            yield
    finally:
        for name, function in real.items():
            setattr(mx.fast, name, function)
