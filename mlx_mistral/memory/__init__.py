"""What a model needs in memory, by arithmetic before anything is allocated, and what there is."""

from .cache import cache_bytes
from .plan import MemoryPlan, default_context, max_context, plan_memory
from .weights import loading_bytes, matrix_bytes_in_memory, weights_in_memory
from .workspace import workspace_bytes

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
