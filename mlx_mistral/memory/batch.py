"""What texts that are decoded together need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mlx_mistral.backend.scratch import ScratchSizes
from mlx_mistral.config import ModelConfig

from .cache import cache_bytes
from .workspace import PREFILL_TOKENS, pass_bytes


class Extent(NamedTuple):
    """Tokens of a text's prompt, and of all that it may become."""

    prompt: int
    end: int


def batch_cache_bytes(
    config: ModelConfig,
    n_texts: int,
    longest: int,
    activation_bytes: int,
    kv_bits: int | None = None,
) -> int:
    """Bytes of the caches of a batch, in which every text takes as much as the longest.

    longest: tokens of the longest text, its prompt and its reply together.
    Raises: CacheError: the heads cannot be quantized.
    """
    return n_texts * cache_bytes(config, longest, activation_bytes, kv_bits)


def batch_bytes(
    config: ModelConfig,
    texts: Sequence[Extent],
    activation_bytes: int,
    *,
    scratch: ScratchSizes,
    chunk: int = PREFILL_TOKENS,
    kv_bits: int | None = None,
) -> int:
    """The most that caches of these texts and work on them take together.

    While a text joins or leaves, one layer of all is held twice.
    chunk: tokens of prompts that are read at a time, those of all texts together.
    Raises: CacheError: the heads cannot be quantized.
    """
    n, longest = len(texts), max(text.end for text in texts)

    def work(n_new: int) -> int:
        return pass_bytes(
            config,
            n_new,
            longest,
            activation_bytes,
            scratch=scratch,
            kv_bits=kv_bits,
        )

    caches = batch_cache_bytes(config, n, longest, activation_bytes, kv_bits)
    n_read = max(n, min(chunk, sum(text.prompt for text in texts)))
    return caches + caches // config.n_layers + work(n_read) + (n - 1) * work(1)
