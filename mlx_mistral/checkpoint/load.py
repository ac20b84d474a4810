"""A folder of weights becomes a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.untrusted import shown
from mlx_mistral.model import Model, fuse

from .dtype import resolve_dtype
from .headers import Headers
from .parameters import Parameter
from .reader import Checkpoint

PACKED, SCALE_CODES = "U32", "U8"
"""Quantized weights, eight 4-bit ones to a word, and the one-byte scales of the MX formats."""


def load_model(
    folder: str | Path, *, dtype: mx.Dtype | str | None = None, lazy: bool = False
) -> Model:
    """The model in a folder of any layout: official, Hugging Face or MLX.

    Floats are cast to `dtype` (default: what suits the device); quantized weights stay as they
    are. Everything is checked against the headers first, then read one tensor at a time, and
    those of one input are joined layer by layer, so that memory peaks at the model and a part
    of one layer. With `lazy`, weights are read at first use,
    which must then be on this thread.

    Raises: ModelNotFoundError: no model there. ConfigError: an unsupported architecture.
        CheckpointError: a file or tensor is missing, left over, malformed or of a wrong shape.
    """
    checkpoint = Checkpoint(folder)
    model = hollow_model(checkpoint, str(folder))
    for path, part in parts(model):
        fill(part, checkpoint, path, resolve_dtype(dtype), lazy=lazy)
        if not lazy:
            fuse(part)
    return model


def parts(model: Model) -> Iterator[tuple[str, nn.Module]]:
    """The modules that hold a model's parameters, in the order of their work, with their paths."""
    yield "model.embed_tokens", model.model.embed_tokens
    for i, layer in enumerate(model.layers):
        yield f"model.layers.{i}", layer
    yield "model.norm", model.model.norm
    if not model.config.tied_embeddings:
        yield "lm_head", model.lm_head


def hollow_model(checkpoint: Checkpoint, where: str, model: Model | None = None) -> Model:
    """The model that a checkpoint makes, its weights not read: modules in their stored form.

    Its parameters are placeholders that take no memory until they are computed.
    model: one of this configuration, to be given that form.
    Raises: CheckpointError: the checkpoint's tensors are not those of its configuration.
    """
    model = Model(checkpoint.config) if model is None else model
    _quantize(model, checkpoint.headers)
    check_parameters(checkpoint.parameters, dict(tree_flatten(model.parameters())), where)
    model.eval()
    return model


def fill(
    module: nn.Module, checkpoint: Checkpoint, path: str, dtype: mx.Dtype, *, lazy: bool = False
) -> None:
    """Reads the weights of a module of a hollow model, one tensor at a time.

    `path` is the module's place, such as `model.layers.3`; empty for the whole model.
    Raises: CheckpointError: the data cannot be read.
    """
    parameters: dict[str, mx.array] = dict(tree_flatten(module.parameters()))
    loaded = []
    for name in parameters:
        full_name = f"{path}.{name}" if path else name
        loaded.append((name, checkpoint.read(full_name, dtype, lazy=lazy)))
        mx.clear_cache()
    module.update(tree_unflatten(loaded))


def check_parameters(
    found: Mapping[str, Parameter], expected: Mapping[str, mx.array], where: str
) -> None:
    """Raises: CheckpointError: they differ in names, shapes or kinds of numbers."""
    for name in expected:
        if name not in found:
            raise CheckpointError(
                f"{where}: the weights lack {name}; the download is incomplete or belongs to "
                "another configuration"
            )
    for name, parameter in found.items():
        stored = f"{parameter.pieces[0].tensor.file}: {shown(parameter.stored_name)}"
        if name not in expected:
            raise CheckpointError(
                f"{stored} has no place in the model; the weights belong to another configuration"
            )
        if parameter.shape != expected[name].shape:
            raise CheckpointError(
                f"{stored} makes a {name} of shape {list(parameter.shape)}, the configuration "
                f"needs {list(expected[name].shape)}; the files do not belong together"
            )
        wanted = _stored_kind(expected[name].dtype)
        if not (parameter.is_float if wanted is None else parameter.dtype == wanted):
            raise CheckpointError(
                f"{stored} is {parameter.dtype}; {wanted or 'F32, F16, BF16 or scaled FP8'} "
                "is expected there"
            )


def _stored_kind(dtype: mx.Dtype) -> str | None:
    """The one dtype that a packed parameter is stored in; None for floats."""
    return {mx.uint32: PACKED, mx.uint8: SCALE_CODES}.get(dtype)


def _quantize(model: Model, headers: Headers) -> None:
    """Gives the modules that are stored with scales their quantized form."""
    quantization = headers.config.quantization
    stored = {name.removesuffix(".scales") for name in headers.parameters if _is_scales(name)}
    if stored and quantization is None:
        raise CheckpointError(
            f"{min(stored)} is stored quantized, but the configuration has no 'quantization'; "
            "use the config.json that belongs to the weights"
        )

    def parameters_of(path: str, module: nn.Module) -> dict[str, int | str] | bool:
        if path not in stored or quantization is None:
            return False
        params = quantization.for_path(path)
        if params is None or not hasattr(module, "to_quantized"):
            raise CheckpointError(
                f"{path} is stored quantized, which its configuration rules out; "
                "use the config.json that belongs to the weights"
            )
        if module.weight.shape[-1] % params.group_size:
            raise CheckpointError(
                f"{path} has rows of {module.weight.shape[-1]} weights, which groups of "
                f"{params.group_size} do not divide; configuration and weights differ"
            )
        return {"group_size": params.group_size, "bits": params.bits, "mode": params.mode}

    nn.quantize(model, class_predicate=parameters_of)


def _is_scales(name: str) -> bool:
    return name.endswith(".scales")
