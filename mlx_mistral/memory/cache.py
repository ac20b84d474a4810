"""Bytes that caches of keys and values take, as they are allocated."""

from __future__ import annotations

from mlx_mistral.cache.fixed import round_up
from mlx_mistral.cache.quantized import SCALE_BYTES, group_size_for
from mlx_mistral.config import ModelConfig


def cache_bytes(
    config: ModelConfig, context: int, activation_bytes: int, kv_bits: int | None = None
) -> int:
    """Bytes of all layers' buffers once a text of `context` tokens has been read.

    Buffers that grow do so by whole steps; a layer with a window of W holds W tokens at most.
    kv_bits: of a quantized cache; None: as wide as activations.
    Raises: CacheError: the heads cannot be quantized.
    """
    layers = config.windows
    return sum(_layer(config, window, context, activation_bytes, kv_bits) for window in layers)


def ring_bytes(
    config: ModelConfig, context: int, activation_bytes: int, kv_bits: int | None = None
) -> int:
    """The part of `cache_bytes` that belongs to layers with a window."""
    rings = [window for window in config.windows if window is not None]
    return sum(_layer(config, window, context, activation_bytes, kv_bits) for window in rings)


def stored_bytes(
    config: ModelConfig, n_tokens: int, activation_bytes: int, kv_bits: int | None
) -> int:
    """Bytes of n tokens in one layer's buffers."""
    if kv_bits is None:
        return pair_bytes(config, n_tokens, activation_bytes)
    groups = config.head_dim // group_size_for(config.head_dim)
    row = config.head_dim * kv_bits // 8 + 2 * SCALE_BYTES * groups
    return 2 * n_tokens * config.n_kv_heads * row


def pair_bytes(config: ModelConfig, n_tokens: int, activation_bytes: int) -> int:
    """Bytes of the keys and values of n tokens in one layer, as they are computed."""
    return 2 * n_tokens * config.n_kv_heads * config.head_dim * activation_bytes


def _layer(
    config: ModelConfig,
    window: int | None,
    context: int,
    activation_bytes: int,
    kv_bits: int | None,
) -> int:
    held = round_up(context) if window is None else min(round_up(context), window)
    return stored_bytes(config, held, activation_bytes, kv_bits)
