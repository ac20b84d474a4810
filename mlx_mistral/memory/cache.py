"""Bytes that caches of keys and values take, as they are allocated."""

from __future__ import annotations

from mlx_mistral.cache.base import round_up
from mlx_mistral.config import ModelConfig


def cache_bytes(config: ModelConfig, context: int, activation_bytes: int) -> int:
    """Bytes of all layers' buffers once a text of `context` tokens has been read.

    Buffers that grow do so by whole steps; a layer with a window of W holds W tokens at most.
    """
    return sum(_layer(config, window, context, activation_bytes) for window in config.windows)


def ring_bytes(config: ModelConfig, context: int, activation_bytes: int) -> int:
    """The part of `cache_bytes` that belongs to layers with a window."""
    rings = [window for window in config.windows if window is not None]
    return sum(_layer(config, window, context, activation_bytes) for window in rings)


def pair_bytes(config: ModelConfig, n_tokens: int, activation_bytes: int) -> int:
    """Bytes of the keys and values of n tokens in one layer."""
    return 2 * n_tokens * config.n_kv_heads * config.head_dim * activation_bytes


def _layer(config: ModelConfig, window: int | None, context: int, activation_bytes: int) -> int:
    held = round_up(context)
    return pair_bytes(config, held if window is None else min(held, window), activation_bytes)
