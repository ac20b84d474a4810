"""Random quantized matrices, and the weights that their codes stand for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_mistral.config.quantization import QuantParams

from . import reference
from .tolerance import Array, to_numpy

SOURCE_ROWS = 4099
"""Rows of random words that a matrix repeats: a prime, so that experts differ in each row."""
_NO_NAN = 0xBFBFBFBF
"""Clears a bit of the exponent of four E4M3 codes, one of which stands for NaN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedMatrix:
    """A matrix, or a stack of experts, whose codes and scales are random.

    Shapes: words (..., out, in * bits / 32), scales and biases (..., out, in / group).
    """

    params: QuantParams
    words: mx.array
    scales: mx.array
    biases: mx.array | None

    @property
    def nbytes(self) -> int:
        """Return the bytes of codes, scales and biases."""
        biases = 0 if self.biases is None else self.biases.nbytes
        return self.words.nbytes + self.scales.nbytes + biases

    @classmethod
    def random(
        cls, shape: tuple[int, ...], params: QuantParams, dtype: mx.Dtype
    ) -> QuantizedMatrix:
        """Return a matrix of the given shape, (..., out, in), with weights around zero."""
        *leading, n_inputs = shape
        n_rows, n_words = int(np.prod(leading)), n_inputs * params.bits // 32
        n_groups = n_inputs // params.group_size
        rng = np.random.default_rng(params.bits)
        words = rng.integers(0, 1 << 32, (min(n_rows, SOURCE_ROWS), n_words), np.uint32)
        if params.mode == "mxfp8":
            words &= np.uint32(_NO_NAN)
        source = mx.array(words)
        if n_rows > SOURCE_ROWS:
            source = mx.take(source, mx.arange(n_rows) % SOURCE_ROWS, axis=0)
        packed = source.reshape(*leading, n_words)
        group_shape = (*leading, n_groups)
        if params.mode == "affine":
            steps = mx.random.uniform(0.5, 1.0, group_shape, key=mx.random.key(1))
            middle = ((1 << params.bits) - 1) / 2
            scales = (steps / middle).astype(dtype)
            biases = (-steps).astype(dtype)
            return cls(params=params, words=packed, scales=scales, biases=biases)
        low, high = (0x30, 0x40) if params.mode == "nvfp4" else (125, 129)
        codes = mx.random.randint(low, high, group_shape, key=mx.random.key(1))
        return cls(params=params, words=packed, scales=codes.astype(mx.uint8), biases=None)

    def weights(self, columns: Sequence[int], expert: int | None = None) -> Array:
        """Return rows of the matrix, or of one of its experts, in float64.

        Shapes: -> (len(columns), in).
        """
        picked = mx.array(list(columns))
        words, scales, biases = (
            None if part is None else (part if expert is None else part[expert])[picked]
            for part in (self.words, self.scales, self.biases)
        )
        assert words is not None
        assert scales is not None
        is_code = scales.dtype == mx.uint8
        return reference.dequantize(
            np.array(words),
            np.array(scales) if is_code else to_numpy(scales),
            None if biases is None else to_numpy(biases),
            bits=self.params.bits,
            mode=self.params.mode,
        )


def describe(params: QuantParams) -> str:
    """Return the name of a format, such as `affine 4-bit, groups of 64`."""
    if params.mode != "affine":
        return params.mode
    return f"{params.bits}-bit, groups of {params.group_size}"
