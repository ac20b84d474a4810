"""Root mean square normalization."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight. Source: arXiv:1910.07467.

    Where MLX has no kernel for it, on the CPU, it takes seven steps. The mean square of one row
    is a product, whose scale and constant come with it: that makes four.
    """

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., dim) -> the same."""
        if x.size > x.shape[-1] or x.dtype != mx.float32 or mx.default_device() != mx.cpu:
            out: mx.array = super().__call__(x)
            return out
        row = x.reshape(1, -1) if x.ndim != 2 else x
        mean_square = mx.addmm(mx.array(self.eps), row, row.T, alpha=1 / x.size)
        return x * mx.rsqrt(mean_square) * self.weight
