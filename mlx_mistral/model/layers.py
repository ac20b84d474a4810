"""Linear maps and norms: MLX's modules, computed by the backend."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_mistral.backend.select import active_backend


class RMSNorm(nn.RMSNorm):
    """x / rms(x) * weight. Source: arXiv:1910.07467."""

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., dim) -> (..., dim)."""
        return active_backend().rms_norm(x, self["weight"], self.eps)


class Linear(nn.Linear):
    """An `nn.Linear` that `mlx.nn.quantize` makes a `QuantizedLinear` of this module."""

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        quantize_input: bool = False,
    ) -> nn.Module:
        """Called by `mlx.nn.quantize`."""
        other: Any = nn.QQLinear if quantize_input else QuantizedLinear
        quantized: nn.Module = other.from_linear(self, group_size, bits, mode)
        return quantized


class QuantizedLinear(nn.QuantizedLinear):
    """An `nn.QuantizedLinear` that the backend computes."""

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., in) -> (..., out)."""
        out = active_backend().quantized_linear(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
        )
        return out + self["bias"] if "bias" in self else out
