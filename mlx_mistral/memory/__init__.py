"""What a model needs in memory, by arithmetic before anything is allocated, and what there is."""

from .plan import (
    MemoryPlan,
    cache_bytes,
    default_context,
    loading_bytes,
    max_context,
    plan_memory,
    workspace_bytes,
)
from .weights import matrix_bytes_in_memory, weights_in_memory

__all__ = [
    "MemoryPlan",
    "cache_bytes",
    "default_context",
    "loading_bytes",
    "matrix_bytes_in_memory",
    "max_context",
    "plan_memory",
    "weights_in_memory",
    "workspace_bytes",
]
