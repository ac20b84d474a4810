"""One cache a layer, of the kind that its window asks for."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.errors import CacheError

from .base import KVCache
from .growing import GrowingCache
from .quantized import check_bits, group_size_for
from .rotating import RotatingCache


def make_cache(
    windows: Sequence[int | None],
    *,
    context: int | None = None,
    kv_bits: int | None = None,
    left_padding: Sequence[int] | None = None,
    head_dim: int | None = None,
) -> list[KVCache]:
    """Caches for layers with the given windows.

    context: hold at most this many tokens. A layer whose window is no wider holds less
    and runs on without end; any other refuses the token after the last, since dropping
    keys that it should see would change the text.
    kv_bits: 8 or 4 for quantized keys and values; None: as wide as what they come in.
    head_dim: of the layers, so that what cannot be quantized is refused at once.
    Raises: CacheError: the context is below 1, or there are no caches of so many bits.
    """
    if kv_bits is not None:
        check_bits(kv_bits)
        if head_dim is not None:
            group_size_for(head_dim)
    if context is not None and context < 1:
        raise CacheError(f"a context of {context} tokens holds nothing; ask for at least 1")

    def one(window: int | None) -> KVCache:
        if window is None or (context is not None and context < window):
            return GrowingCache(limit=context, left_padding=left_padding, kv_bits=kv_bits)
        return RotatingCache(window, left_padding=left_padding, kv_bits=kv_bits)

    return [one(window) for window in windows]
