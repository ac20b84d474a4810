"""Rotary position embeddings: plain, YaRN, and the position-scaled queries of Ministral 3.

The two halves of a head are rotated against each other, as in Hugging Face's and MLX's
checkpoints; official checkpoints rotate neighbours and are permuted when they are loaded.
"""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_mistral.backend.ops import RotaryTable, Rotation
from mlx_mistral.backend.select import active_backend
from mlx_mistral.config import ModelConfig, QueryScaling, YarnConfig


class RotaryEmbedding:
    """Makes the rotations of queries and keys, which all layers share.

    Source: arXiv:2104.09864; YaRN: arXiv:2309.00071, section 3.

    Example:
        rotation = RotaryEmbedding(config)(position, n_new=1, dtype=mx.bfloat16)
        q, k = rotation(q), rotation(k)
    """

    def __init__(self, config: ModelConfig) -> None:
        yarn = config.yarn
        self._table = RotaryTable(
            dims=config.head_dim,
            base=config.rope_theta if yarn is None else None,
            periods=yarn_periods(config.head_dim, config.rope_theta, yarn) if yarn else None,
            magnitude=yarn.attention_factor if yarn else 1.0,
        )

    def __call__(self, position: mx.array | int, *, n_new: int, dtype: mx.Dtype) -> Rotation:
        """Return the rotation of n_new tokens. Shapes: position () or (B,) of the first one."""
        return active_backend().rotation(self._table, position, n_new=n_new, dtype=dtype)


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
