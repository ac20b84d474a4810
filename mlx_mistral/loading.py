"""A model's name becomes a model and its tokenizer."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import mlx.core as mx

from mlx_mistral.backend.select import active_backend
from mlx_mistral.checkpoint import Headers, load_model, read_folder, resolve
from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
from mlx_mistral.config.sizes import parse_size, size_text
from mlx_mistral.errors import CheckpointError, MemoryBudgetError, MlxMistralError
from mlx_mistral.memory import ModelNeeds
from mlx_mistral.memory.admission import check_fits
from mlx_mistral.memory.governor import Tell, log
from mlx_mistral.memory.machine import machine_budget
from mlx_mistral.memory.streamed import experts_room
from mlx_mistral.model import Model
from mlx_mistral.text import load_tokenizer

if TYPE_CHECKING:
    from mlx_mistral.streaming import StreamedModel
    from mlx_mistral.text import Tokenizer


def load(
    path_or_repo: str | Path = "demo",
    *,
    adapter_path: str | Path | None = None,
    dtype: mx.Dtype | str | None = None,
    memory: int | str | None = None,
    context: int | None = None,
    name: str | None = None,
    tell: Tell = log,
    lazy: bool = False,
) -> tuple[Model, Tokenizer]:
    """The model and tokenizer of a folder, Hub repo, alias, or `demo`.

    dtype: of activations; by default bfloat16 on a GPU, float32 on the CPU.
    memory: bytes, or `16GB`, that weights, caches and work may take together; by default what
        this machine gives. A mixture of experts that does not fit is held in part, and reads the
        other experts from its files when they are chosen.
    context: tokens that must fit it; by default a short text.
    name: what errors call the model; by default as it is given.
    tell: told in a line that a model is held in part.
    lazy: leave weights on disk until they are first used.
    Raises: ModelNotFoundError, ConfigError, CheckpointError, TokenizerError. MemoryBudgetError:
        the model does not fit, before anything of it is loaded.
    """
    if adapter_path is not None:
        raise CheckpointError("adapters cannot be loaded yet; merge the adapter into its model")
    budget_bytes = machine_budget() if memory is None else parse_size(memory)
    folder = resolve(str(path_or_repo))
    # Arrays belong to the thread that makes them, so it is the tokenizer that goes elsewhere.
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokenizer") as elsewhere:
        tokenizer = elsewhere.submit(load_tokenizer, folder)
        try:
            model = load_within(
                folder,
                budget_bytes,
                name=name or str(path_or_repo),
                dtype=dtype,
                context=context,
                tell=tell,
                lazy=lazy,
            )
        except MlxMistralError:
            # Of two things that are wrong with a folder, the same one is always said.
            tokenizer.result()
            raise
        return model, tokenizer.result()


def load_within(
    folder: Path,
    budget_bytes: int | None,
    *,
    name: str,
    dtype: mx.Dtype | str | None = None,
    context: int | None = None,
    tell: Tell = log,
    lazy: bool = False,
) -> Model:
    """A folder's model that stays inside a budget, its experts on disk if it must be.

    Raises: as `load`.
    """
    if budget_bytes is None:
        return load_model(folder, dtype=dtype, lazy=lazy)
    headers = read_folder(folder)
    room = check_room(headers, budget_bytes, name=name, dtype=dtype, context=context)
    model: Model
    if room is None:
        model = load_model(folder, dtype=dtype, lazy=lazy)
    else:
        from mlx_mistral.streaming import load_streaming

        model = streamed = load_streaming(folder, budget_bytes=room, dtype=dtype)
        tell(held_in_part(streamed, name, budget_bytes))
    model.budget_bytes = budget_bytes
    return model


def check_room(
    headers: Headers,
    budget_bytes: int,
    *,
    name: str,
    dtype: mx.Dtype | str | None = None,
    context: int | None = None,
) -> int | None:
    """None: the model fits whole; else the bytes that are left to experts.

    Raises: MemoryBudgetError: neither will do.
    """
    name_of_dtype = dtype_name(resolve_dtype(dtype))
    needs = ModelNeeds.of(headers, dtype=name_of_dtype, scratch=active_backend().scratch)
    try:
        check_fits(needs, name, budget_bytes, context=context)
    except MemoryBudgetError:
        room = experts_room(headers, needs, budget_bytes, context)
        if room is None:
            raise
        return room
    return None


def held_in_part(model: StreamedModel, name: str, budget_bytes: int) -> str:
    """What its user is told, in a line."""
    moe = model.config.moe
    n_experts = model.config.n_layers * (moe.num_experts if moe else 0)
    return (
        f"{name} does not fit {size_text(budget_bytes)}: {model.streaming.slots} of its "
        f"{n_experts} experts are held at a time, the others are read from disk, slowly"
    )
