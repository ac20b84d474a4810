"""Errors of an operation's outputs, and the limits that they must stay below.

The inputs of an operation are random, in the dtype that the device computes in. The reference
takes the same inputs and computes in float64 with NumPy, so what is left is the operation's own
rounding:

- The output is rounded to the dtype, and so are intermediate values that a kernel keeps in it:
  dequantized weights, softmax shares. A rounding is half of 2^-8 of a value in bfloat16 and half
  of 2^-23 in float32; the largest of some thousand values is 4 to 5 times their rms.
- Sums are in float32. The roundings of a sum of n terms add up like sqrt(n) * 2^-23.

The limit is 8 times the sum of both, as a share of the rms of the reference: with two roundings
6.3e-2 in bfloat16, 6.3e-5 in float32 for n = 4096. A wrong mask, scale, expert or group changes
outputs by about their rms, 1, and fails in either dtype.
"""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np

Array = np.ndarray[Any, Any]
EPSILON = {mx.float32: 2.0**-23, mx.bfloat16: 2.0**-8, mx.float16: 2.0**-10}
ALLOWANCE = 8


def limit(dtype: mx.Dtype, n_terms: int, *, roundings: int = 1) -> float:
    """Return the largest allowed error of sums of n terms.

    Args:
        roundings: how many values in a row a kernel may round to the dtype.
    """
    return ALLOWANCE * (roundings * EPSILON[dtype] + math.sqrt(n_terms) * EPSILON[mx.float32])


def relative_error(out: mx.array | Array, expected: Array) -> float:
    """Return the largest difference as a share of the rms of `expected`; infinity for NaN."""
    values = to_numpy(out) if isinstance(out, mx.array) else out
    if values.shape != expected.shape:
        raise ValueError(f"the result has the shape {values.shape}, not {expected.shape}")
    error = float(np.abs(values - expected).max() / np.sqrt((expected**2).mean()))
    return error if math.isfinite(error) else math.inf


def n_different(a: mx.array, b: mx.array) -> int:
    """Return how many values of two arrays are not equal."""
    return int(np.array((a != b).sum()))


def to_numpy(x: mx.array) -> Array:
    """Return the values in float64."""
    return np.array(x.astype(mx.float32)).astype(np.float64)


def normal(shape: tuple[int, ...], dtype: mx.Dtype, seed: int) -> mx.array:
    """Return normally distributed values of the dtype."""
    return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)


def sample(n: int, count: int) -> list[int]:
    """Return up to `count` of n positions: the first, the last, and others at equal distances."""
    return sorted({round(i) for i in np.linspace(0, n - 1, min(n, count))})
