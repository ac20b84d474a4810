"""Naive operations in NumPy, float64. They share no code with the operations that they check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
"""Magnitudes of E2M1 codes. Source: OCP Microscaling Formats v1.0, section 5.3.3."""


def attention(
    q: Array,
    k: Array,
    v: Array,
    *,
    scale: float,
    window: int | None,
    padding: Sequence[int],
    queries: Sequence[int],
) -> Array:
    """Causal attention of some of the T new tokens, the last ones of the S tokens.

    Args:
        padding: columns at the start of each sequence that hold no token; a padding token attends
            to itself.
        queries: which of the new tokens.
    Shapes: q (B, H, T, D), k and v (B, K, S, D) -> (B, H, len(queries), D).
    """
    batch, n_heads, n_new, head_dim = q.shape
    n_kv_heads, n_seen = k.shape[1:3]
    out = np.empty((batch, n_heads, len(queries), head_dim))
    for b in range(batch):
        for i, t in enumerate(queries):
            column = n_seen - n_new + t
            first = 0 if window is None else max(0, column - window + 1)
            first = max(first, min(padding[b], column))
            keys, values = (x[b, :, first : column + 1] for x in (k, v))  # (K, n, D)
            heads = q[b, :, t].reshape(n_kv_heads, -1, head_dim)  # (K, H / K, D)
            scores = scale * heads @ keys.swapaxes(1, 2)
            shares = np.exp(scores - scores.max(-1, keepdims=True))
            shares /= shares.sum(-1, keepdims=True)
            out[b, :, i] = (shares @ values).reshape(n_heads, head_dim)
    return out


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    """Source: arXiv:1910.07467."""
    normed: Array = x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight
    return normed


def rotate(x: Array, positions: Array, frequencies: Array, magnitude: float = 1.0) -> Array:
    """Rotary embedding; the halves of a head are the real and the imaginary parts.

    Shapes: x (B, H, T, D), positions (B, T), frequencies (D / 2,). Source: arXiv:2104.09864.
    """
    half = x.shape[-1] // 2
    turns = np.exp(1j * positions[:, None, :, None] * frequencies)
    rotated = (x[..., :half] + 1j * x[..., half:]) * turns
    heads: Array = magnitude * np.concatenate([rotated.real, rotated.imag], axis=-1)
    return heads


def dequantize(words: Array, scales: Array, biases: Array | None, *, bits: int, mode: str) -> Array:
    """Return the weights that packed codes stand for.

    Codes follow each other in a row's bits, the lowest bit first.
    Shapes: words (rows, in * bits / 32) uint32, scales (rows, in / group) -> (rows, in).
    """
    rows = words.shape[0]
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(rows, -1, bits) @ (1 << np.arange(bits))
    groups = codes.reshape(rows, scales.shape[-1], -1)
    if mode == "affine":
        assert biases is not None
        values = groups * scales[..., None] + biases[..., None]
    else:
        values = (_fp4(groups) if bits == 4 else _e4m3(groups)) * _scales(scales, mode)[..., None]
    weights: Array = values.reshape(rows, -1)
    return weights


def _scales(codes: Array, mode: str) -> Array:
    """Powers of two (E8M0) in the mx modes, E4M3 numbers in nvfp4."""
    return _e4m3(codes) if mode == "nvfp4" else 2.0 ** (codes.astype(np.float64) - 127)


def _fp4(codes: Array) -> Array:
    """Sign, then a magnitude of three bits."""
    values: Array = np.where(codes & 8, -1.0, 1.0) * _FP4[codes & 7]
    return values


def _e4m3(codes: Array) -> Array:
    """Sign, four bits of exponent with bias 7, three bits of mantissa; not its NaN."""
    codes = codes.astype(np.int64)
    exponent, mantissa = (codes >> 3) & 15, codes & 7
    normals = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    magnitude = np.where(exponent == 0, mantissa / 8 * 2.0**-6, normals)
    values: Array = np.where(codes & 128, -1.0, 1.0) * magnitude
    return values
