"""Attention over quantized keys and values.

Few new tokens read them as they are. Many would write scores larger than the keys and values
themselves, which no fused kernel avoids; these are then dequantized first.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.cache import Band, Mask
from mlx_mistral.cache.mask import visible
from mlx_mistral.cache.quantized import QuantizedRows, Rows


def reads_quantized(q: mx.array, k: QuantizedRows) -> bool:
    """Whether scores in float32 take no more memory than keys and values dequantized.

    Shapes: q (B, H, T, D).
    """
    _, n_heads, n_new, head_dim = q.shape
    n_kv_heads = k.weight.shape[1]
    return n_new * n_heads * 4 <= 2 * n_kv_heads * head_dim * q.dtype.size


def quantized_attention(
    q: mx.array, k: QuantizedRows, v: QuantizedRows, scale: float, mask: Mask
) -> mx.array:
    """Mask and softmax are in float32; the H / K queries of a key share its reading.

    Buffers are read whole, since cutting out what is visible would copy it on some devices:
    the scores of slots that hold nothing are dropped.
    Shapes: q (B, H, T, D), k and v of S tokens -> (B, H, T, D).
    """
    batch, n_heads, n_new, head_dim = q.shape
    n_kv_heads, capacity = k.weight.shape[1:3]
    group_size, bits = k.group_size(head_dim), k.bits(head_dim)
    rows = (scale * q).reshape(batch, n_kv_heads, -1, head_dim)  # (B, K, H / K * T, D)
    scores = mx.quantized_matmul(rows, *k[:3], transpose=True, group_size=group_size, bits=bits)
    scores = scores[..., : k.n].astype(mx.float32).reshape(batch, n_kv_heads, -1, n_new, k.n)
    seen = _visible(mask, n_new, k.n)
    if seen is not None:
        scores = mx.where(seen, scores, -mx.inf)
    shares = mx.softmax(scores, axis=-1).astype(q.dtype).reshape(*rows.shape[:3], k.n)
    shares = mx.pad(shares, [(0, 0), (0, 0), (0, 0), (0, capacity - k.n)])
    out = mx.quantized_matmul(shares, *v[:3], transpose=False, group_size=group_size, bits=bits)
    return out.reshape(batch, n_heads, n_new, head_dim)


def dequantized(rows: Rows, q: mx.array) -> mx.array:
    """Keys or values as they are, or in the type of the queries. Shapes: -> (B, K, S, D)."""
    if isinstance(rows, QuantizedRows):
        return rows.dequantize(q.shape[-1], q.dtype)
    return rows


def _visible(mask: Mask, n_new: int, n_seen: int) -> mx.array | None:
    """(T, S), or (B, 1, 1, T, S) of a mask for each text; None: all."""
    if isinstance(mask, mx.array):
        return mx.expand_dims(mask, 2) if mask.ndim == 4 else mask
    if mask is None:
        return None
    columns = mx.arange(n_seen)
    window = mask.window if isinstance(mask, Band) else None
    return visible(columns[n_seen - n_new :], columns, window)
