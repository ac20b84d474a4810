"""Attention over quantized keys and values in NumPy: codes by hand, one query at a time."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def numbers(parts: tuple[mx.array, ...], bits: int) -> np.ndarray:
    """What codes, scales and biases stand for. Shapes: -> (B, K, n, D) float64."""
    words = np.array(parts[0])
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = (words[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    codes = codes.reshape(*words.shape[:3], -1).astype(np.float64)
    scales, biases = (np.array(part.astype(mx.float32), np.float64) for part in parts[1:])
    in_groups = codes.reshape(*scales.shape, -1)
    return (in_groups * scales[..., None] + biases[..., None]).reshape(codes.shape)


def attention(
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    first: int,
    window: int | None,
    padding: tuple[int, ...],
) -> np.ndarray:
    """Queries of the columns from `first` on. Shapes: (B, H, T, D), (B, K, S, D) twice."""
    batch, n_heads, n_new, head_dim = q.shape
    shared = n_heads // k.shape[1]
    out = np.zeros(q.shape)
    for b in range(batch):
        for head in range(n_heads):
            for t in range(n_new):
                column = first + t
                oldest = 0 if window is None else max(0, column - window + 1)
                seen = [c for c in range(oldest, column + 1) if c >= padding[b] or c == column]
                scores = k[b, head // shared, seen] @ q[b, head, t] / np.sqrt(head_dim)
                shares = np.exp(scores - scores.max())
                out[b, head, t] = shares / shares.sum() @ v[b, head // shared, seen]
    return out
