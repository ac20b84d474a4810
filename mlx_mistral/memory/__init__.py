"""What a model needs in memory, by arithmetic before anything is allocated, and what there is."""

from .cache import cache_bytes
from .chips import Chip, find_chip, this_chip
from .needs import ModelNeeds
from .plan import MemoryPlan, default_context, max_context, plan_memory
from .speed import DecodeSpeed
from .weights import joining_bytes, loading_bytes, matrix_bytes_in_memory, weights_in_memory
from .workspace import workspace_bytes

__all__ = [
    "Chip",
    "DecodeSpeed",
    "MemoryPlan",
    "ModelNeeds",
    "cache_bytes",
    "default_context",
    "find_chip",
    "joining_bytes",
    "loading_bytes",
    "matrix_bytes_in_memory",
    "max_context",
    "plan_memory",
    "this_chip",
    "weights_in_memory",
    "workspace_bytes",
]
