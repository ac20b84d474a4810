"""Rotary position embeddings: plain, YaRN, and the position-scaled queries of Ministral 3.

The two halves of a head are rotated against each other, as in Hugging Face's and MLX's
checkpoints; official checkpoints rotate neighbours and are permuted when they are loaded.
"""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.config import ModelConfig, QueryScaling, YarnConfig


class RotaryEmbedding(nn.Module):
    """Rotates queries and keys by their positions.

    Source: arXiv:2104.09864; YaRN: arXiv:2309.00071, section 3.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._dims = config.head_dim
        self._base: float | None = config.rope_theta
        self._periods: mx.array | None = None
        self._magnitude = 1.0
        if config.yarn is not None:
            self._base = None
            self._periods = yarn_periods(config.head_dim, config.rope_theta, config.yarn)
            self._magnitude = config.yarn.attention_factor

    def __call__(self, x: mx.array, position: Position) -> mx.array:
        """Shapes: (B, H, T, D), position () or (B,) of the first token -> (B, H, T, D)."""
        if isinstance(position, Turns):
            return position(x)
        if self._magnitude != 1.0:
            x = x * self._magnitude
        return mx.fast.rope(
            x,
            self._dims,
            traditional=False,
            base=self._base,
            scale=1.0,
            offset=position,
            freqs=self._periods,
        )

    def turns(self, position: mx.array | int, n_new: int, dtype: mx.Dtype) -> Position:
        """What layers that rotate alike can share for n_new tokens.

        On a GPU the kernel that rotates needs the position alone. On the CPU, every layer would
        compute the sines and cosines of the one token that is decoded.
        Shapes: position () or (B,) of the first token.
        """
        if n_new > 1 or mx.default_device() != mx.cpu:
            return position
        places = mx.array(position).astype(mx.float32).reshape(-1, 1)
        angles = places * self._frequencies()
        cos, sin = self._magnitude * mx.cos(angles), self._magnitude * mx.sin(angles)
        return Turns(cos.astype(dtype), sin.astype(dtype))

    def _frequencies(self) -> mx.array:
        """In radians a token, computed as MLX's kernel does. Shapes: -> (D / 2,) float32."""
        if self._periods is not None:
            return mx.reciprocal(self._periods)
        assert self._base is not None
        half = self._dims // 2
        return mx.exp(mx.arange(0, -half, -1, dtype=mx.float32) * (math.log(self._base) / half))


class Turns:
    """The rotation of one token a text, for all heads and layers: a matrix, so one product each."""

    def __init__(self, cos: mx.array, sin: mx.array) -> None:
        """Shapes: (B, D / 2), or (1, D / 2) where all texts are at one place."""
        half = np.eye(cos.shape[-1], dtype=np.float32)
        none = np.zeros_like(half)
        kept = mx.array(np.block([[half, none], [none, half]])).astype(cos.dtype)
        turned = mx.array(np.block([[none, half], [-half, none]])).astype(cos.dtype)
        cos, sin = (mx.concatenate([part, part], -1)[:, None] for part in (cos, sin))
        self._matrix = kept * cos + turned * sin  # (B, D, D)

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (B, H, 1, D) -> the same."""
        return mx.expand_dims(x.squeeze(2) @ self._matrix, 2)


Position = mx.array | int | Turns
"""The position of a first token, () or (B,), or the rotations made of it."""


def yarn_periods(head_dim: int, theta: float, yarn: YarnConfig) -> mx.array:
    """The reciprocal angular frequencies, those of slow dimensions stretched by the factor.

    Shapes: -> (D / 2,) float32.
    Source: arXiv:2309.00071, section 3.2; bounds rounded as in the reference code.
    """

    def dimension_of(rotations: float) -> float:
        turns = yarn.original_context / (2 * math.pi * rotations)
        return head_dim * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(dimension_of(yarn.beta_fast)), 0)
    high = min(math.ceil(dimension_of(yarn.beta_slow)), head_dim - 1)
    width = (high - low) or 0.001
    periods = []
    for i in range(head_dim // 2):
        ramp = min(max((i - low) / width, 0.0), 1.0)
        frequency = theta ** (-2 * i / head_dim)
        periods.append(1.0 / (frequency * (1 - ramp + ramp / yarn.factor)))
    return mx.array(periods, dtype=mx.float32)


def query_scale(scaling: QueryScaling, position: mx.array | int, n_new: int) -> mx.array:
    """Factors for the queries of n_new tokens: 1 + beta ln(1 + floor(position / original)).

    Shapes: position () -> (T, 1); (B,) -> (B, 1, T, 1). Padding, at negative positions, gets 1.
    Source: transformers, modeling_ministral3.py, get_llama_4_attn_scale.
    """
    positions = mx.expand_dims(mx.array(position), -1) + mx.arange(n_new)
    turns = mx.floor(mx.maximum(positions, 0) / scaling.original_context)
    scale = (1 + scaling.beta * mx.log(1 + turns))[..., None]
    return scale if scale.ndim == 2 else scale[:, None]
