"""What models have read, kept on disk within a limit: a long text is not read again.

`PromptCacheStore` holds entries of several texts and models, for several processes at once.
"""

from .key import cache_key
from .limit import default_limit_bytes
from .store import Found, PromptCacheStore

__all__ = ["Found", "PromptCacheStore", "cache_key", "default_limit_bytes"]
