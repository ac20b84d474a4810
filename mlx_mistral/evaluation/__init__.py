"""How good a model is: perplexity of a text, and its distance from another model."""

from .blocks import Block, blocks
from .evaluate import evaluate
from .scores import Scores, score

__all__ = ["Block", "Scores", "blocks", "evaluate", "score"]
