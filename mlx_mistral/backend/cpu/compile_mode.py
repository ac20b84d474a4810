"""Compiled functions on the CPU device: replayed, but not fused.

MLX runs a C++ compiler for each fused kernel of the CPU, ten seconds for a first token. Its C++
interface has a mode that keeps the traced graph and fuses nothing; Python has no name for it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import mlx.core as mx

NO_FUSE, ENABLED = 2, 3
"""Members of MLX's CompileMode. Source: mlx, compile.h."""


class UnfusedFunction:
    """A compiled function that is traced without fusing: in the first call of each thread.

    Its arrays have the same shapes in all calls. MLX keeps traces by thread (compile.cpp).

    Example:
        step = UnfusedFunction(mx.compile(function))
    """

    def __init__(self, compiled: Callable[..., Any]) -> None:
        self._compiled = compiled
        self._threads: set[int] = set()

    def __call__(self, *arrays: mx.array) -> Any:
        thread = threading.get_ident()
        if thread in self._threads:
            return self._compiled(*arrays)
        with unfused():
            out = self._compiled(*arrays)
        self._threads.add(thread)
        return out


def can_set_mode() -> bool:
    """Return whether this build of MLX has the mode that traces without fusing."""
    return _set_mode() is not None


@contextmanager
def unfused() -> Iterator[None]:
    """Trace functions without fusing inside the context.

    MLX has one mode for all threads: what others trace meanwhile is not fused either, and computes
    the same. Use it only where compiling is enabled, which is what it restores.
    """
    set_mode = _set_mode()
    if set_mode is None:
        yield
        return
    set_mode(NO_FUSE)
    try:
        yield
    finally:
        set_mode(ENABLED)


@cache
def _set_mode() -> Callable[[int], Any] | None:
    """Return `mlx::core::set_compile_mode`; None: this build of MLX does not export it."""
    if "MLX_DISABLE_COMPILE" in os.environ:
        return None
    folder = Path(mx.__file__).parent / "lib"
    for name in ("libmlx.so", "libmlx.dylib"):
        if (folder / name).is_file():
            symbol = getattr(
                ctypes.CDLL(str(folder / name)),
                "_ZN3mlx4core16set_compile_modeENS0_11CompileModeE",
                None,
            )
            if symbol is not None:
                symbol.restype = None
                return symbol  # type: ignore[no-any-return]
    return None
