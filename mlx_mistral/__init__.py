"""Mistral's open-weight models in MLX: exact windows, exact tokens.

    from mlx_mistral import load, stream_generate

    model, tokenizer = load("demo")
    for response in stream_generate(model, tokenizer, "Hello", max_tokens=20):
        print(response.text, end="")

Names are imported when they are first used, so that `import mlx_mistral` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batch_completion import BatchResponse, batch_generate
    from .chat import Chat
    from .checkpoint import load_model
    from .completion import (
        GenerationResponse,
        generate,
        stream_generate,
    )
    from .config import ModelConfig
    from .errors import (
        CacheError,
        CheckpointError,
        ConfigError,
        ContextError,
        ConversionError,
        EvaluationError,
        MemoryBudgetError,
        MlxMistralError,
        ModelNotFoundError,
        SessionError,
        TokenizerError,
    )
    from .loading import load
    from .text import Tokenizer, load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "BatchResponse",
    "CacheError",
    "Chat",
    "CheckpointError",
    "ConfigError",
    "ContextError",
    "ConversionError",
    "EvaluationError",
    "GenerationResponse",
    "MemoryBudgetError",
    "MlxMistralError",
    "ModelConfig",
    "ModelNotFoundError",
    "SessionError",
    "Tokenizer",
    "TokenizerError",
    "batch_generate",
    "generate",
    "load",
    "load_model",
    "load_tokenizer",
    "stream_generate",
]

_HOMES = {
    "BatchResponse": "batch_completion",
    "Chat": "chat",
    "GenerationResponse": "completion",
    "ModelConfig": "config",
    "Tokenizer": "text",
    "batch_generate": "batch_completion",
    "generate": "completion",
    "load": "loading",
    "load_model": "checkpoint",
    "load_tokenizer": "text",
    "stream_generate": "completion",
}


def _is_in_a_tree() -> bool:
    """In a checkout `convert` lies beside this package; installed, it lies inside."""
    package = Path(__file__).parent
    return not (package / "convert").is_dir() and (package.parent / "pyproject.toml").is_file()


if _is_in_a_tree():
    __path__.append(str(Path(__file__).parents[1]))


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOMES.get(name, 'errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
