"""The measured recipe: bits go where a calibration text shows that they matter."""

from .choose import choose
from .damages import Damages
from .measure import measure
from .refine import refine

__all__ = ["Damages", "choose", "measure", "refine"]
