"""Rounding to an affine format with the least error where a text's activations are large.

MLX spreads the levels of a group from its smallest weight to its largest. Here narrower ranges
are tried as well, and for each the scale and bias that fit the rounded weights best.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_mistral.config import QuantParams

SHRINKS = (1.0, 0.9, 0.8, 0.7, 0.55)
"""Ranges of levels that are tried, as shares of the group's own."""
FITS = 4
"""Times that scale and bias are fitted to the levels, and the levels chosen again."""
LEAST_SHARE = 0.01
"""Of the mean importance, what a column has at least: a short text does not see all."""
WORD_BITS = 32


def refine(
    weight: mx.array, params: QuantParams, importance: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Packed levels, scales and biases as `mx.quantize` returns them, never with more error.

    The error is the sum over columns of importance times the squared difference, where scales
    and biases have the weight's dtype, as in the file. Importance is the mean square of what a
    column is multiplied with; see `Damages.importance`.
    Shapes: weight (rows, columns), importance (columns,); or both with the experts before.
    Source: the search follows llama.cpp, ggml-quants.c, make_qkx2_quants.
    """
    groups = mx.unflatten(weight.astype(mx.float32), -1, (-1, params.group_size))
    shares = _shares(importance)[..., None, :]  # the same for all rows
    shares = mx.unflatten(shares, -1, (-1, params.group_size))
    kind: dict[str, Any] = {"group_size": params.group_size, "bits": params.bits}
    _, scale, bias = mx.quantize(weight, **kind)
    scale, bias = scale[..., None].astype(mx.float32), bias[..., None].astype(mx.float32)
    best = _Fit(groups, shares, params.bits, scale, bias, weight.dtype)
    low, high = groups.min(-1, keepdims=True), groups.max(-1, keepdims=True)
    for shrink in SHRINKS:
        tried_scale = (high - low) * (shrink / (2**params.bits - 1))
        tried_bias = low + (high - low) * ((1 - shrink) / 2)
        for _ in range(FITS):
            tried_scale, tried_bias = best.challenge(tried_scale, tried_bias)
        mx.eval(best.scale, best.bias, best.error)
    levels = best.levels(best.scale, best.bias).flatten(-2)
    scales, biases = (x.squeeze(-1).astype(weight.dtype) for x in (best.scale, best.bias))
    return pack(levels, params.bits), scales, biases


def _shares(importance: mx.array) -> mx.array:
    """Importance with a mean of 1; all alike where nothing was seen."""
    importance = importance.astype(mx.float32)
    mean = importance.mean(-1, keepdims=True)
    shares = importance / mx.where(mean > 0, mean, 1.0)
    return mx.where(mean > 0, mx.maximum(shares, LEAST_SHARE), 1.0)


class _Fit:
    """The best scale and bias of each group so far."""

    def __init__(
        self,
        groups: mx.array,
        shares: mx.array,
        bits: int,
        scale: mx.array,
        bias: mx.array,
        stored: mx.Dtype,
    ) -> None:
        self._groups, self._shares, self._most, self._stored = groups, shares, 2**bits - 1, stored
        self.scale, self.bias = scale, bias
        self.error = self._error(self.levels(scale, bias), scale, bias)

    def levels(self, scale: mx.array, bias: mx.array) -> mx.array:
        """The nearest level of each weight, 0 to the highest."""
        scale = mx.where(scale == 0, 1.0, scale)
        return mx.clip(mx.round((self._groups - bias) / scale), 0, self._most)

    def challenge(self, scale: mx.array, bias: mx.array) -> tuple[mx.array, mx.array]:
        """Fits scale and bias to the levels that these give, and takes what is better."""
        scale, bias = self._fitted(self.levels(scale, bias))
        scale, bias = (x.astype(self._stored).astype(mx.float32) for x in (scale, bias))
        error = self._error(self.levels(scale, bias), scale, bias)
        better = error < self.error
        self.scale, self.bias = (
            mx.where(better, scale, self.scale),
            mx.where(better, bias, self.bias),
        )
        self.error = mx.where(better, error, self.error)
        return scale, bias

    def _fitted(self, levels: mx.array) -> tuple[mx.array, mx.array]:
        """Weighted least squares of the weights on their levels."""
        total = self._shares.sum(-1, keepdims=True)
        level = (self._shares * levels).sum(-1, keepdims=True) / total
        value = (self._shares * self._groups).sum(-1, keepdims=True) / total
        spread = (self._shares * (levels - level) ** 2).sum(-1, keepdims=True)
        both = (self._shares * (levels - level) * (self._groups - value)).sum(-1, keepdims=True)
        scale = mx.where(spread > 0, both / mx.where(spread > 0, spread, 1.0), 0.0)
        return scale, value - scale * level

    def _error(self, levels: mx.array, scale: mx.array, bias: mx.array) -> mx.array:
        difference = self._groups - (scale * levels + bias)
        return (self._shares * difference**2).sum(-1, keepdims=True)


def pack(levels: mx.array, bits: int) -> mx.array:
    """Levels as one little-endian stream of bits a row, cut into words.

    Shapes: (..., columns) -> (..., columns * bits / 32) uint32.
    Source: mlx, ops.cpp, affine_quantize; the same for all widths.
    """
    places = mx.arange(bits, dtype=mx.uint32)
    stream = (levels.astype(mx.uint32)[..., None] >> places) & 1
    words = mx.unflatten(stream.flatten(-2), -1, (-1, WORD_BITS))
    return (words << mx.arange(WORD_BITS, dtype=mx.uint32)).sum(-1).astype(mx.uint32)
