"""A folder of weights becomes a model whose experts stay on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from mlx_mistral.backend.device import device_kind
from mlx_mistral.checkpoint import Checkpoint
from mlx_mistral.checkpoint.dtype import resolve_dtype
from mlx_mistral.checkpoint.load import fill, hollow_model, parts
from mlx_mistral.errors import CheckpointError, MemoryBudgetError
from mlx_mistral.model import Model, fuse
from mlx_mistral.model.fingerprint import SAMPLE, fingerprint

from .experts import NextRouter, StreamedExperts
from .library import ExpertLibrary
from .stream import ExpertStream


class StreamedModel(Model):
    """A model that reads experts while it computes; its files must stay where they are.

    With room for all experts it is the resident model: they are read on loading, and nothing is
    left to count.
    """

    is_traceable = False
    streaming: ExpertStream
    """Its experts in memory, and their `stats`."""

    @property
    def reserved_bytes(self) -> int:
        """Of slots for experts that have not been read yet."""
        stream = self.streaming
        return 0 if stream.holds_all else max(0, stream.budget_bytes - stream.resident_bytes)

    def fingerprint(self) -> str:
        """That of the resident model, whose saved caches serve this one too."""
        stream = self.streaming
        return fingerprint(self, None if stream.holds_all else stream.beginnings(SAMPLE))


def load_streaming(
    folder: str | Path,
    *,
    slots: int | None = None,
    budget_bytes: int | None = None,
    dtype: mx.Dtype | str | None = None,
    read_ahead: bool = True,
    before_part: Callable[[str], None] = lambda path: None,
) -> StreamedModel:
    """The model in a folder of any layout, of whose experts only some are in memory at a time.

    All other weights are resident. Logits are those of `load_model`, to the bit.
    slots: experts of all layers that are held at once; at least 2. Of all: nothing streams.
    budget_bytes: the same as bytes, of the experts alone: the shared weights, the cache and the
        workspace come on top.
    read_ahead: read what the next layer will probably choose while this one computes.
    before_part: called with the path of each resident part before it is read; may raise.
    Raises: as `load_model`; CheckpointError: the model has no experts. MemoryBudgetError: no
        room for two experts, or neither slots nor bytes are given.
    """
    checkpoint = Checkpoint(folder)
    config, moe = checkpoint.config, checkpoint.config.moe
    if moe is None:
        raise CheckpointError(f"{folder} has no experts to stream; load it as it is, or quantized")
    if device_kind() == "cuda":
        raise CheckpointError(
            f"{folder}: experts stream on Apple's GPUs and on CPUs; with CUDA, load it whole"
        )
    if (slots is None) == (budget_bytes is None):
        raise MemoryBudgetError("give either a number of expert slots or their bytes")
    held = resolve_dtype(dtype)
    model = StreamedModel(config)
    hollow_model(checkpoint, str(folder), model)
    paths = [f"model.layers.{i}.block_sparse_moe.switch_mlp" for i in range(config.n_layers)]
    stacks = [layer.block_sparse_moe.switch_mlp for layer in model.layers]
    library = ExpertLibrary(checkpoint, dict(zip(paths, stacks, strict=True)), held)
    largest = max(form.nbytes for form in library.forms)
    room = slots * largest if slots is not None else budget_bytes or 0
    try:
        stream = ExpertStream(library, room, moe.num_experts, read_ahead=read_ahead)
    except BaseException:
        library.files.close()
        raise
    model.streaming, model.is_traceable = stream, stream.holds_all
    streamed = [] if stream.holds_all else model.layers
    for layer in streamed:
        del layer.block_sparse_moe["switch_mlp"]
    for path, part in parts(model):
        before_part(path)
        fill(part, checkpoint, path, held)
        fuse(part)
    for number, layer in enumerate(streamed):
        is_last = number + 1 == config.n_layers
        router = None if is_last else NextRouter(layer, model.layers[number + 1])
        experts = StreamedExperts(stream, number, router, stacks[number].dispatch)
        layer.block_sparse_moe["switch_mlp"] = experts
    return model
