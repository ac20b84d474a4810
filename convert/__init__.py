"""Official weights to a quantized folder: read, quantized and written a slab at a time."""

from .compare import Comparison, compare
from .conversion import convert_checkpoint
from .decide import Request, decide
from .plan import Plan
from .result import Conversion, Progress

__all__ = [
    "Comparison",
    "Conversion",
    "Plan",
    "Progress",
    "Request",
    "compare",
    "convert_checkpoint",
    "decide",
]
