"""Official weights to a quantized folder: read, quantized and written a slab at a time."""

from .conversion import convert_checkpoint
from .decide import Request, decide
from .plan import Plan
from .result import Conversion, Progress

__all__ = ["Conversion", "Plan", "Progress", "Request", "convert_checkpoint", "decide"]
