"""How many texts a budget holds when they are decoded together."""

from __future__ import annotations

from mlx_mistral.config import ModelConfig

from .cache import cache_bytes


def batch_cache_bytes(
    config: ModelConfig,
    n_texts: int,
    longest: int,
    activation_bytes: int,
    kv_bits: int | None = None,
) -> int:
    """Bytes of the caches of a batch, in which every text takes as much as the longest.

    While a text joins or leaves, one layer more is held.
    longest: tokens of the longest text, its prompt and its reply together.
    Raises: CacheError: the heads cannot be quantized.
    """
    return n_texts * cache_bytes(config, longest, activation_bytes, kv_bits)


def largest_batch(
    budget_bytes: int,
    config: ModelConfig,
    longest: int,
    activation_bytes: int,
    kv_bits: int | None = None,
) -> int:
    """How many texts' caches fit the bytes that weights and workspace leave; 0: not even one."""
    one = batch_cache_bytes(config, 1, longest, activation_bytes, kv_bits)
    a_layer = one // config.n_layers  # of the text that joins or leaves
    return max(0, budget_bytes // (one + a_layer))
