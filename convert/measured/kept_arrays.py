"""Arrays inside JSON: float32 in base64, with their shape."""

from __future__ import annotations

import base64
import math
from typing import Any

import mlx.core as mx
import numpy as np


def to_json(array: mx.array) -> dict[str, Any]:
    raw = np.array(array.astype(mx.float32), dtype="<f4").tobytes()
    return {"shape": list(array.shape), "float32": base64.b64encode(raw).decode("ascii")}


def from_json(entry: Any) -> mx.array:
    """Raises: KeyError, TypeError, ValueError: not what `to_json` makes of finite numbers."""
    shape, raw = entry["shape"], base64.b64decode(entry["float32"], validate=True)
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise ValueError(f"a shape of {shape!r}")
    if math.prod(shape) * 4 != len(raw):
        raise ValueError(f"{len(raw)} bytes for a shape of {shape!r}")
    values = np.frombuffer(raw, dtype="<f4").reshape(shape)
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    return mx.array(values)
