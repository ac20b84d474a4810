"""Grouped-query attention over a key/value cache."""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.cache import Band, KVCache, Mask
from mlx_mistral.cache.quantized import QuantizedRows, Rows
from mlx_mistral.config import ModelConfig

from .blocked import FUSED_ROWS, UNFUSED_ROWS, blocked_attention
from .fused import Fusable, is_one_token
from .linear import Linear
from .one_token import one_token_attention
from .quantized_attention import dequantized, quantized_attention, reads_quantized
from .rope import Position, RotaryEmbedding, Turns


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
        self.rope = RotaryEmbedding(config)

    def __call__(
        self,
        x: mx.array,
        position: Position,
        mask: Mask,
        cache: KVCache | None = None,
        query_scale: mx.array | None = None,
        last_only: bool = False,
    ) -> mx.array:
        """Shapes: (B, T, dim), position () or (B,) of the first token -> (B, T, dim).

        One token a text may come as (B, dim), and then leaves so.
        last_only: all T tokens are remembered, the last one alone asks: -> (B, 1, dim).
        """
        q, k, v = self._project(x, position, last_only)  # (B, H | K | K, T, D)
        if query_scale is not None:
            q = q * query_scale[..., -q.shape[2] :, :].astype(q.dtype)
        if last_only and isinstance(mask, mx.array):
            mask = mask[..., -1:, :]
        seen = (k, v) if cache is None else cache.update_and_fetch(k, v)  # (B, K, S, D)
        out = attend(q, *seen, self._scale, mask)
        return self.o_proj(out[:, None] if out.ndim < x.ndim else out)

    def _project(
        self, x: mx.array, position: Position, last_only: bool
    ) -> tuple[mx.array, mx.array, mx.array]:
        # With many tokens the joined output would only be memory.
        fused = self.fused() if is_one_token(x) else None
        if fused is None:
            asking, place = x, position
            if last_only and not isinstance(position, Turns):
                asking, place = x[:, -1:], position + (x.shape[1] - 1)
            q = self.rope(self._split_heads(self.q_proj(asking)), place)
            k = self.rope(self._split_heads(self.k_proj(x)), position)
            return q, k, self._split_heads(self.v_proj(x))
        end_of_q, end_of_k = self._heads
        turning, v = mx.split(self._split_heads(fused(x)), [end_of_k], axis=1)
        q, k = mx.split(self.rope(turning, position), [end_of_q], axis=1)
        return q, k, v

    def _split_heads(self, x: mx.array) -> mx.array:
        """(B, T, heads * D) -> (B, heads, T, D)."""
        if x.ndim == 2:
            return mx.unflatten(x, -1, (-1, 1, self._head_dim))
        return mx.unflatten(x, -1, (-1, self._head_dim)).swapaxes(1, 2)


def attend(q: mx.array, k: Rows, v: Rows, scale: float, mask: Mask) -> mx.array:
    """Shapes: (B, H, T, D), (B, K, S, D) twice -> (B, T, H * D), or (B, H * D) of one token."""
    if isinstance(k, QuantizedRows) and isinstance(v, QuantizedRows) and reads_quantized(q, k):
        return join_heads(quantized_attention(q, k, v, scale, mask))
    k, v = dequantized(k, q), dequantized(v, q)
    is_fused = mx.default_device() != mx.cpu
    if q.shape[2] == 1 and not is_fused and (mask is None or isinstance(mask, mx.array)):
        return one_token_attention(q, k, v, scale, mask)
    if isinstance(mask, Band) or (mask == "causal" and not is_fused):
        window = mask.window if isinstance(mask, Band) else None
        rows = FUSED_ROWS if is_fused else UNFUSED_ROWS
        return join_heads(blocked_attention(q, k, v, scale, window, rows))
    return join_heads(mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask))


def join_heads(x: mx.array) -> mx.array:
    """(B, H, T, D) -> (B, T, H * D), or (B, H * D) of one token."""
    return x.flatten(1) if x.shape[2] == 1 else x.swapaxes(1, 2).flatten(-2)
