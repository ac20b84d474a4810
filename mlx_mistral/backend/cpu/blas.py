"""The BLAS that MLX's CPU device multiplies with."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def is_preloaded() -> bool:
    """Return whether a BLAS was preloaded that replaces the slow one inside MLX's wheel.

    MLX's own is hidden inside its library; a preloaded one is visible to the whole process.
    """
    try:
        return hasattr(ctypes.CDLL(None), "cblas_sgemm")
    except (OSError, TypeError):
        return False
