"""Rotary embedding of one token as a matrix product."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.ops import RotaryTable, Rotation


class MatrixRotation(Rotation):
    """The rotation of one token per sequence, computed once for all heads and layers.

    MLX's CPU device has no kernel for `mx.fast.rope`: each layer would compute sines and cosines.

    Example:
        rotation = MatrixRotation(table, position, mx.float32)
        q, k = rotation(q), rotation(k)
    """

    def __init__(self, table: RotaryTable, position: mx.array | int, dtype: mx.Dtype) -> None:
        """Shapes: position () or (B,)."""
        super().__init__(table, position)
        positions = mx.array(position).astype(mx.float32).reshape(-1, 1)
        angles = positions * _frequencies(table)
        cos, sin = (table.magnitude * part(angles) for part in (mx.cos, mx.sin))
        self._matrix = _rotation_matrix(cos.astype(dtype), sin.astype(dtype))  # (B, D, D)

    def __call__(self, x: mx.array, skip: int = 0) -> mx.array:
        return mx.expand_dims(x.squeeze(2) @ self._matrix, 2)


def _rotation_matrix(cos: mx.array, sin: mx.array) -> mx.array:
    """Shapes: (B, D / 2) twice -> (B, D, D)."""
    eye = np.eye(cos.shape[-1], dtype=np.float32)
    zero = np.zeros_like(eye)
    straight = mx.array(np.block([[eye, zero], [zero, eye]])).astype(cos.dtype)
    crossed = mx.array(np.block([[zero, eye], [-eye, zero]])).astype(cos.dtype)
    cos, sin = (mx.concatenate([part, part], -1)[:, None] for part in (cos, sin))
    return straight * cos + crossed * sin


def _frequencies(table: RotaryTable) -> mx.array:
    """Return radians per token, computed as MLX's kernel does. Shapes: -> (D / 2,) float32."""
    if table.periods is not None:
        return mx.reciprocal(table.periods)
    assert table.base is not None
    half = table.dims // 2
    return mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(table.base) / half))
