"""Grouped-query attention over a key/value cache."""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.backend.ops import Rotation
from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache, Mask
from mlx_mistral.cache.quantized import QuantizedRows, Rows
from mlx_mistral.config import ModelConfig

from .fused import Fusable
from .layers import Linear
from .quantized_attention import dequantized, quantized_attention, reads_quantized


class Attention(Fusable):
    """Grouped-query attention.

    Shapes: B batch, T new tokens, S visible tokens, H query heads, K key/value heads,
    D head_dim. The fused kernel shares K among H, so memory stays at K heads.
    Source: arXiv:2305.13245; arXiv:2310.06825, section 2.
    """

    fusable = ("q_proj", "k_proj", "v_proj")

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._head_dim = config.head_dim
        self._heads = (config.n_heads, config.n_heads + config.n_kv_heads)
        self._scale = config.head_dim**-0.5
        query_dim, kv_dim = config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
        self.q_proj = Linear(config.dim, query_dim, bias=False)
        self.k_proj = Linear(config.dim, kv_dim, bias=False)
        self.v_proj = Linear(config.dim, kv_dim, bias=False)
        self.o_proj = Linear(query_dim, config.dim, bias=False)

    def __call__(
        self,
        x: mx.array,
        rotation: Rotation,
        mask: Mask,
        cache: KVCache | None = None,
        query_scale: mx.array | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """Shapes: (B, T, dim) -> (B, T, dim).

        Args:
            rotation: of the T tokens.
            query_scale: factors of the queries, (T, 1) or (B, 1, T, 1).
            last_only: store all T tokens and return the output of the last: -> (B, 1, dim).
        """
        q, k, v = self._project(x, rotation, last_only)  # (B, H | K | K, T, D)
        if query_scale is not None:
            q = q * query_scale[..., -q.shape[2] :, :].astype(q.dtype)
        if last_only and isinstance(mask, mx.array):
            mask = mask[..., -1:, :]
        keys, values = (k, v) if cache is None else cache.update_and_fetch(k, v)  # (B, K, S, D)
        return self.o_proj(join_heads(attend(q, keys, values, self._scale, mask)))

    def _project(
        self, x: mx.array, rotation: Rotation, last_only: bool
    ) -> tuple[mx.array, mx.array, mx.array]:
        # With many tokens the joined output would only be memory.
        fused = self.fused() if x.shape[1] == 1 else None
        if fused is None:
            skip = x.shape[1] - 1 if last_only else 0
            q = rotation(self._split_heads(self.q_proj(x[:, skip:])), skip)
            k = rotation(self._split_heads(self.k_proj(x)))
            return q, k, self._split_heads(self.v_proj(x))
        end_of_q, end_of_k = self._heads
        rotated, v = mx.split(self._split_heads(fused(x)), [end_of_k], axis=1)
        q, k = mx.split(rotation(rotated), [end_of_q], axis=1)
        return q, k, v

    def _split_heads(self, x: mx.array) -> mx.array:
        """Shapes: (B, T, heads * D) -> (B, heads, T, D)."""
        return mx.unflatten(x, -1, (-1, self._head_dim)).swapaxes(1, 2)


def attend(q: mx.array, k: Rows, v: Rows, scale: float, mask: Mask) -> mx.array:
    """Attention over keys and values that may be quantized.

    Shapes: q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).
    """
    if isinstance(k, QuantizedRows) and isinstance(v, QuantizedRows) and reads_quantized(q, k):
        return quantized_attention(q, k, v, scale, mask)
    return active_backend().attention(
        q, dequantized(k, q), dequantized(v, q), scale=scale, mask=mask
    )


def join_heads(x: mx.array) -> mx.array:
    """Shapes: (B, H, T, D) -> (B, T, H * D)."""
    return x.swapaxes(1, 2).flatten(-2)
