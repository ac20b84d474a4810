"""When a step is traced and replayed, and how."""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

NO_FUSE, ENABLED = 2, 3
"""Members of MLX's CompileMode. Source: mlx, compile.h."""


def can_trace() -> bool:
    """Whether a step is replayed faster than it is built anew.

    On the CPU, MLX has a C++ compiler make each fused kernel, ten seconds for a first token's
    worth; there a step is replayed unfused, or, where MLX cannot be told so, not at all.
    """
    if _is_disabled():
        return False
    if mx.default_device() != mx.cpu:
        return True
    return _set_mode() is not None and _has_compiler()


@contextmanager
def unfused_on_cpu() -> Iterator[None]:
    """Inside, functions that are traced on the CPU fuse nothing.

    MLX keeps one mode for all threads: what others trace meanwhile is not fused either, and
    computes the same. What a caller disabled stays so, unless another thread does that meanwhile.
    """
    set_mode = _set_mode() if mx.default_device() == mx.cpu else None
    if set_mode is None or _is_disabled():
        yield
        return
    set_mode(NO_FUSE)
    try:
        yield
    finally:
        set_mode(ENABLED)


def _is_disabled() -> bool:
    """Whether `mx.disable_compile` holds, which MLX does not tell; a trace then happens anew."""
    n_traces = 0

    def probe(x: mx.array) -> mx.array:
        nonlocal n_traces
        n_traces += 1
        return x

    compiled = mx.compile(probe)
    for _ in range(2):
        compiled(mx.array(0))
    return n_traces == 2


@cache
def _set_mode() -> Callable[[int], Any] | None:
    """`mlx::core::set_compile_mode`, which Python has no name for; None: not to be had."""
    if "MLX_DISABLE_COMPILE" in os.environ:
        return None
    folder = Path(mx.__file__).parent / "lib"
    for name in ("libmlx.so", "libmlx.dylib"):
        if (folder / name).is_file():
            found = getattr(
                ctypes.CDLL(str(folder / name)),
                "_ZN3mlx4core16set_compile_modeENS0_11CompileModeE",
                None,
            )
            if found is not None:
                found.restype = None
                return found  # type: ignore[no-any-return]
    return None


@cache
def _has_compiler() -> bool:
    """Without one, MLX replays nothing on the CPU."""
    return shutil.which("g++") is not None
