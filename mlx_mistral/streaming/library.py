"""Where each expert lies in the files, and how its bytes get into a slot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.backend.device import on_cpu
from mlx_mistral.checkpoint import Checkpoint
from mlx_mistral.checkpoint.parameters import FP8, Parameter
from mlx_mistral.checkpoint.slabs import Raw, RawSlab, Slab, decode, scale_of_rows, slabs_of
from mlx_mistral.checkpoint.torch_pickle import NUMPY_DTYPES, TorchFile
from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.tensor_info import TensorInfo
from mlx_mistral.files.untrusted import shown

from .files import OpenFiles
from .slot import ExpertForm, Field, Key, Slot

READ_BYTES = 8 << 20
"""Bytes of one read: several of them make up a large expert, so that threads share it."""
PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
_STORED = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "U32": mx.uint32,
    "U8": mx.uint8,
}
_BITS = {2: mx.uint16, 4: mx.uint32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some rows of one field of an expert."""

    slab: Slab
    field: int
    first_row: int
    """Within the expert."""
    is_direct: bool
    """Stored as it is computed with, so that the disk's bytes are the slot's."""


Batch = tuple[Part, ...]
"""What one thread reads in one go."""


class ExpertLibrary:
    """All experts of a checkpoint, on disk.

    Raises: CheckpointError: a file cannot be opened, or one saved by torch holds its experts in
        an order that cannot be read in parts.
    """

    def __init__(
        self, checkpoint: Checkpoint, stacks: Mapping[str, nn.Module], dtype: mx.Dtype
    ) -> None:
        """stacks: by path, each layer's experts in a hollow model."""
        self._config, self._dtype = checkpoint.config, dtype
        self.forms: list[ExpertForm] = []
        self._stacks: list[Parameter] = []
        self._batches: dict[Key, list[Batch]] = {}
        files = set()
        for layer, (path, stack) in enumerate(stacks.items()):
            parameters = [p for p in checkpoint.parameters.values() if p.name.startswith(path)]
            self._stacks += parameters
            self.forms.append(_form(path, stack, parameters, dtype))
            for key, parts in self._parts(layer, parameters).items():
                self._batches[key] = list(_batches(parts))
            files |= {info.file for info in _tensors(parameters)}
            _check_readable(parameters)
        self.files = OpenFiles(files)

    @property
    def keys(self) -> list[Key]:
        return list(self._batches)

    @property
    def nbytes(self) -> int:
        """What all experts would take in memory."""
        return sum(self.forms[layer].nbytes for layer, _ in self._batches)

    def batches(self, key: Key) -> list[Batch]:
        return self._batches[key]

    def fill(self, slot: Slot, batch: Batch) -> int:
        """Reads some of an expert into its slot, on any thread; returns the bytes read.

        Raises: CheckpointError: the files cannot be read, or are not what they were.
        """
        return sum(
            self._read(part, slot.rows[part.field][part.first_row :][: part.slab.n_rows])
            for part in batch
        )

    def beginnings(self, n_values: int) -> dict[str, tuple[tuple[int, ...], mx.array]]:
        """Of each parameter its shape, as a stack of all experts, and its first values.

        Raises: as `fill`.
        """
        return {one.name: (one.shape, self._beginning(one, n_values)) for one in self._stacks}

    def _beginning(self, parameter: Parameter, n_values: int) -> mx.array:
        held = _held(parameter, self._dtype)
        found: list[Raw] = []
        for slab in slabs_of(parameter, self._config, slab_bytes=1):
            shape = slab.n_rows, parameter.shape[-1]
            rows = np.empty(shape, np.dtype(f"u{held.size}"))
            self._read(self._part(parameter, slab, 0), rows)
            found.append(rows.reshape(-1))
            if sum(map(len, found)) >= n_values:
                break
        return mx.array(np.concatenate(found)[:n_values]).view(held)

    def _read(self, part: Part, rows: Raw) -> int:
        slab = part.slab
        if part.is_direct:
            self._read_rows(slab.piece.tensor, slab.stored_first, rows)
            return rows.nbytes
        values = self._stored_rows(slab.piece.tensor, slab.stored_first, slab.stored_rows)
        read, scale = values.nbytes, None
        if slab.piece.scale is not None:
            info = slab.piece.scale
            scale = self._stored_rows(info, 0, int(np.prod(info.shape[:-1])))
            read += scale.nbytes
            scale = scale_of_rows(scale.reshape(info.shape), slab)
        # On the CPU even beside a GPU, which has the experts before this one to compute.
        raw = RawSlab(slab=slab, values=values, scale=scale)
        with on_cpu():
            bits = decode(raw, self._config, self._dtype).view(_BITS[self._dtype.size])
            mx.eval(bits)
        np.copyto(rows, np.array(bits, copy=False))
        return read

    def _stored_rows(self, info: TensorInfo, first: int, count: int) -> Raw:
        columns = info.shape[-1] if info.shape else 1
        dtype = np.dtype(np.uint8 if info.dtype == FP8 else NUMPY_DTYPES[info.dtype])
        rows = np.empty((count, columns), dtype)
        self._read_rows(info, first, rows)
        return rows

    def _read_rows(self, info: TensorInfo, first: int, rows: Raw) -> None:
        begin = info.begin + first * rows.strides[0]
        self.files.read_into(rows.reshape(-1).view(np.uint8).data, info.file, begin)

    def _parts(self, layer: int, parameters: list[Parameter]) -> dict[Key, list[Part]]:
        parts: dict[Key, list[Part]] = {}
        for number, parameter in enumerate(parameters):
            for slab in slabs_of(parameter, self._config, slab_bytes=READ_BYTES):
                part = self._part(parameter, slab, number)
                parts.setdefault((layer, slab.expert), []).append(part)
        return parts

    def _part(self, parameter: Parameter, slab: Slab, field: int) -> Part:
        is_plain = slab.piece.scale is None and not slab.is_transposed
        return Part(
            slab=slab,
            field=field,
            first_row=slab.first_row % parameter.shape[1],
            is_direct=is_plain and _STORED.get(parameter.dtype) == _held(parameter, self._dtype),
        )


def _form(path: str, stack: nn.Module, parameters: list[Parameter], dtype: mx.Dtype) -> ExpertForm:
    fields = []
    for parameter in parameters:
        projection, name = parameter.name.removeprefix(f"{path}.").split(".")
        fields.append(
            Field(
                projection=projection,
                name=name,
                shape=parameter.shape[1:],
                dtype=_held(parameter, dtype),
            )
        )
    templates = {name: stack[name] for name in PROJECTIONS}
    kinds = ("group_size", "bits", "mode")
    quantization = tuple(
        tuple(getattr(module, kind, None) for kind in kinds) for module in templates.values()
    )
    return ExpertForm(fields=tuple(fields), quantization=quantization, templates=templates)


def _held(parameter: Parameter, dtype: mx.Dtype) -> mx.Dtype:
    """The dtype in memory: of floats that of activations, else as stored."""
    return dtype if parameter.is_float else _STORED[parameter.dtype]


def _batches(parts: list[Part]) -> Iterator[Batch]:
    """Parts together up to READ_BYTES: for a small expert one thread is enough."""
    batch: list[Part] = []
    size = 0
    for part in parts:
        tensor = part.slab.piece.tensor
        n_bytes = tensor.nbytes * part.slab.stored_rows // max(1, int(np.prod(tensor.shape[:-1])))
        if batch and size + n_bytes > READ_BYTES:
            yield tuple(batch)
            batch, size = [], 0
        batch.append(part)
        size += n_bytes
    yield tuple(batch)


def _tensors(parameters: list[Parameter]) -> Iterator[TensorInfo]:
    for parameter in parameters:
        for piece in parameter.pieces:
            yield piece.tensor
            if piece.scale is not None:
                yield piece.scale


def _check_readable(parameters: list[Parameter]) -> None:
    opened: dict[Path, Any] = {}
    for info in _tensors(parameters):
        if info.file.suffix != ".safetensors":
            torch_file = opened.setdefault(info.file, TorchFile(info.file))
            if not torch_file.is_contiguous(info.name):
                raise CheckpointError(
                    f"{info.file}: {shown(info.name)} is stored in an order that cannot be read in "
                    "parts; write the model with mlx-mistral convert first"
                )
