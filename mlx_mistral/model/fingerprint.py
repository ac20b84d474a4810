"""A short name for what a model computes, so that a saved cache finds its model again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

if TYPE_CHECKING:
    from .transformer import Model

SAMPLE = 64
"""Values of each tensor that are looked at: enough to tell two trainings apart."""


def fingerprint(
    model: Model, elsewhere: Mapping[str, tuple[tuple[int, ...], mx.array]] | None = None
) -> str:
    """SHA-256 over the architecture and the beginning of every tensor, in hexadecimal.

    elsewhere: by name, the shape and the first `SAMPLE` values of what the model does not hold.
    """
    digest = hashlib.sha256(repr(sorted(asdict(model.config).items())).encode())
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    seen = {name: (one.shape, one.flatten()[:SAMPLE]) for name, one in parameters.items()}
    for name, (shape, sample) in sorted({**seen, **(elsewhere or {})}.items()):
        exact = sample.astype(mx.float32) if mx.issubdtype(sample.dtype, mx.floating) else sample
        digest.update(f"{name} {shape} {sample.dtype}".encode())
        digest.update(np.array(exact).tobytes())
    return digest.hexdigest()
