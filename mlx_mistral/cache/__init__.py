"""What attention remembers: keys and values of the tokens that later tokens may see."""

from .base import KVCache, Snapshot
from .factory import make_cache
from .growing import GrowingCache
from .mask import Band, Mask, attention_mask
from .prefix import PrefixCache
from .rotating import RotatingCache
from .sharing import SharedPrefixes
from .store import load_cache, save_cache

__all__ = [
    "Band",
    "GrowingCache",
    "KVCache",
    "Mask",
    "PrefixCache",
    "RotatingCache",
    "SharedPrefixes",
    "Snapshot",
    "attention_mask",
    "load_cache",
    "make_cache",
    "save_cache",
]
