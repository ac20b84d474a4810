"""Every error that this package raises on purpose.

Messages are one line: what is wrong, where, what to do next. `cli/main.py` prints them as they are.
"""

from __future__ import annotations


class MlxMistralError(Exception):
    """The base of all errors of this package."""


class ConfigError(MlxMistralError):
    """A model configuration is missing, malformed or describes something unsupported."""


class CheckpointError(MlxMistralError):
    """Weights are missing, malformed or do not fit their configuration."""


class ModelNotFoundError(CheckpointError):
    """No model lies where the name points."""


class TokenizerError(MlxMistralError):
    """A tokenizer is missing or malformed, or a text or chat cannot be encoded."""


class ContextError(MlxMistralError):
    """More tokens were asked for than the context holds."""


class CacheError(MlxMistralError):
    """A cache cannot do what was asked: a trim past a wrap, another model's file."""


class MemoryBudgetError(MlxMistralError):
    """What was asked for does not fit the memory budget."""


class ConversionError(MlxMistralError):
    """A checkpoint could not be converted."""


class EvaluationError(MlxMistralError):
    """A text cannot be evaluated, or a model's logits are no numbers."""


class SessionError(MlxMistralError):
    """Conversations or preferences on disk cannot be read, written or taken over."""
