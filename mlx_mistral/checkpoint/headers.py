"""What a checkpoint is, from its configuration and its files' headers alone; no MLX."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import CheckpointError, ConfigError
from mlx_mistral.files.safetensors import read_header
from mlx_mistral.files.tensor_info import TensorInfo
from mlx_mistral.files.untrusted import read_json, shown

from .layouts import FileSet, find_files, read_index
from .names import Layout, canonical_path
from .parameters import Parameter, assemble
from .torch_pickle import TorchFile

_LAYER = re.compile(r"model\.layers\.(0|[1-9]\d{0,6})\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Headers:
    """A checkpoint without its weights.

    `weight_bytes`, parameter counts and the like follow from `parameters`.
    """

    layout: Layout
    config: ModelConfig
    raw_config: Mapping[str, Any]
    """params.json or config.json as it stands."""
    parameters: Mapping[str, Parameter]
    """By canonical name, as the model has them: experts stacked, FP8 scales folded in."""
    files: tuple[Path, ...]

    @property
    def weight_bytes(self) -> int:
        """Bytes of the text model's weights in the files; towers for images do not count."""
        return sum(parameter.nbytes for parameter in self.parameters.values())

    @property
    def parameter_count(self) -> int:
        """Weights of the model, however many bits each is stored in."""
        return sum(self.logical_size(name) for name in self.parameters)

    @property
    def active_parameter_count(self) -> int:
        """Weights that one token meets: of each stack of experts, its top-k."""
        moe = self.config.moe
        count = 0
        for name in self.parameters:
            size = self.logical_size(name)
            if moe and ".switch_mlp." in name:
                size = size // moe.num_experts * moe.num_experts_per_tok
            count += size
        return count

    def logical_size(self, name: str) -> int:
        """Weights in a parameter: unpacked where quantized; none in scales and biases."""
        parameter = self.parameters[name]
        module, _, part = name.rpartition(".")
        elements = math.prod(parameter.shape)
        if f"{module}.scales" not in self.parameters:
            return elements
        if part != "weight":
            return 0
        params = self.config.quantization and self.config.quantization.for_path(module)
        return elements * 32 // params.bits if params else elements


def read_folder(folder: str | Path) -> Headers:
    """The headers of a model folder of any layout.

    Raises: ModelNotFoundError: no model there. CheckpointError: files missing or malformed, or
        not fit for each other. ConfigError: an architecture that is not supported.
    """
    folder = Path(folder)
    found = find_files(folder)
    files = tuple(folder / name for name in found.weights)
    tensors = merge({file: read_tensors(file) for file in files})
    if found.index is not None:
        check_index(read_index(folder, found.index), tensors, folder / found.index)
    raw_config = read_json(folder / found.config)
    return interpret(found, raw_config, tensors, files, str(folder))


def interpret(
    found: FileSet,
    raw_config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    files: tuple[Path, ...],
    where: str,
) -> Headers:
    """Puts configuration and tensors together. Raises: as `read_folder`."""
    layout: Layout = found.kind
    try:
        if layout == "official":
            config = ModelConfig.from_params(raw_config)
        else:
            config = _canonical_overrides(ModelConfig.from_hf(raw_config))
            layout = "mlx" if config.quantization else "hf"
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    parameters = assemble(tensors.values(), layout, config)
    if config.tied_embeddings and "lm_head.weight" in parameters:
        # Wrapper configurations claim ties that their text model does not have.
        config = replace(config, tied_embeddings=False)
    _check_layers(config, parameters, where)
    return Headers(
        layout=layout, config=config, raw_config=raw_config, parameters=parameters, files=files
    )


def read_tensors(file: Path) -> dict[str, TensorInfo]:
    """The tensors of one weight file."""
    return read_header(file) if file.suffix == ".safetensors" else TorchFile(file).tensors


def merge(by_file: Mapping[Path, Mapping[str, TensorInfo]]) -> dict[str, TensorInfo]:
    """The tensors of all shards. Raises: CheckpointError: one is in two of them."""
    merged: dict[str, TensorInfo] = {}
    for file, tensors in by_file.items():
        for name, info in tensors.items():
            if name in merged:
                raise CheckpointError(
                    f"{file} holds {shown(name)}, which is also in {merged[name].file.name}; "
                    "keep one set of weights in the folder"
                )
            merged[name] = info
    return merged


def check_index(table: Mapping[str, str], tensors: Mapping[str, TensorInfo], index: Path) -> None:
    """Raises: CheckpointError: a shard lacks a tensor that the index promises."""
    for name, file in table.items():
        info = tensors.get(name)
        if info is None or info.file.name != file:
            raise CheckpointError(
                f"{index} puts {shown(name)} into {file}, where it is not; the files do not "
                "belong together: download the model again"
            )


def _canonical_overrides(config: ModelConfig) -> ModelConfig:
    if config.quantization is None:
        return config
    overrides = {
        canonical_path(path): params for path, params in config.quantization.overrides.items()
    }
    return replace(config, quantization=replace(config.quantization, overrides=overrides))


def _check_layers(config: ModelConfig, names: Iterable[str], where: str) -> None:
    """Before anything is built: a forged layer count would take all memory."""
    stored = {int(match[1]) for name in names if (match := _LAYER.match(name))}
    missing = next((n for n in range(config.n_layers) if n not in stored), None)
    extra = max(stored, default=-1)
    if missing is None and extra < config.n_layers:
        return
    number, fault = (extra, "is left over") if missing is None else (missing, "is missing")
    raise CheckpointError(
        f"{where}: layer {number} {fault}; the configuration has {config.n_layers} layers: "
        "configuration and weights do not belong together, or the download is incomplete"
    )
