"""Several tokens a pass: drafts, from the text itself or a smaller model, and their check."""

from .decode import Counts, Drafter, DraftingDecoder
from .draft_model import ModelDrafter
from .generate import generate_with_drafts
from .length import DraftLength
from .ngram import NgramDrafter

__all__ = [
    "Counts",
    "DraftLength",
    "Drafter",
    "DraftingDecoder",
    "ModelDrafter",
    "NgramDrafter",
    "generate_with_drafts",
]
