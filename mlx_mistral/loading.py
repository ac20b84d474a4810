"""A model's name becomes a model and its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_mistral.checkpoint import load_model, resolve
from mlx_mistral.errors import CheckpointError, MemoryBudgetError
from mlx_mistral.model import Model
from mlx_mistral.text import load_tokenizer

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer


def load(
    path_or_repo: str | Path = "demo",
    *,
    adapter_path: str | Path | None = None,
    dtype: mx.Dtype | str | None = None,
    memory: int | str | None = None,
    lazy: bool = False,
) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a folder, Hub repo, alias, or `demo`.

    dtype: of activations; by default bfloat16 on a GPU, float32 on the CPU.
    lazy: leave weights on disk until they are first used.
    Raises: ModelNotFoundError, ConfigError, CheckpointError, TokenizerError.
    """
    if adapter_path is not None:
        raise CheckpointError("adapters cannot be loaded yet; merge the adapter into its model")
    if memory is not None:
        raise MemoryBudgetError("memory budgets are not available yet; leave memory out")
    folder = resolve(str(path_or_repo))
    tokenizer = load_tokenizer(folder)
    return load_model(folder, dtype=dtype, lazy=lazy), tokenizer
