"""A checkpoint's parameters in slabs of rows, so that no tensor is ever held whole.

Reading is NumPy and system calls alone, fit for any thread; decoding is MLX, for the thread that
computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.tensor_info import TensorInfo
from mlx_mistral.files.untrusted import open_regular, shown

from .fp8 import BLOCK, dequantize
from .parameters import FP8, Parameter, Piece
from .reader import halves_from_pairs
from .torch_pickle import NUMPY_DTYPES, TorchFile

SLAB_BYTES = 8 << 20
"""Enough for disk and GPU; a CPU is slower with larger ones, which its allocator gives back."""

Raw = npt.NDArray[Any]

_LARGEST_FINITE = {"BF16": 0x7F7F, "F16": 0x7BFF, "F32": 0x7F7FFFFF, FP8: 0x7E}
"""As integers, without the sign: floats of one dtype are ordered like their bits."""
_LARGEST_IN_F16 = {"BF16": 0x477F, "F16": 0x7BFF, "F32": 0x477FE000, FP8: 0x7E}
"""The same for numbers that float16 holds, up to 65504."""
_SCALES_IN_F16 = {"BF16": 0x4312, "F16": 0x5891, "F32": 0x431236DB}
"""The same for scales with which any FP8 number, up to 448, is one of those."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Slab:
    """Some rows of a parameter, and where they are stored.

    Rows of a stack of experts are counted through: those of expert 1 follow those of expert 0.
    """

    parameter: Parameter
    piece: Piece
    first_row: int
    n_rows: int
    stored_first: int
    """The first of the stored tensor's rows."""
    stored_rows: int

    @property
    def expert(self) -> int:
        """Whose rows they are; 0 where there is no stack."""
        shape = self.parameter.shape
        return self.first_row // shape[1] if len(shape) == 3 else 0

    @property
    def is_transposed(self) -> bool:
        return self.piece.form == "expert_columns"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawSlab:
    """A slab's bytes as they are stored; bfloat16 and FP8 as unsigned integers."""

    slab: Slab
    values: Raw
    scale: Raw | None = None


def slabs_of(
    parameter: Parameter, config: ModelConfig, *, slab_bytes: int = SLAB_BYTES
) -> Iterator[Slab]:
    """The slabs that make up a parameter, in the order of its rows.

    Each has about `slab_bytes` in the files, but at least what must be decoded together: a head
    of paired rows, a row of FP8 blocks, an expert that is stored transposed. None holds rows of
    two experts.
    """
    first = 0
    for piece in parameter.pieces:
        rows = _rows(piece.tensor.shape)
        experts = parameter.shape[0] if len(parameter.shape) == 3 and not parameter.stacked else 1
        part = rows // experts
        for part_first in range(0, rows, part):
            if piece.form == "expert_columns":
                step, turned = part, parameter.shape[1]
            else:
                step, turned = _step(piece, rows, config, slab_bytes), None
            for start in range(0, part, step):
                count = min(step, part - start)
                slab = Slab(
                    parameter=parameter,
                    piece=piece,
                    first_row=first,
                    n_rows=turned or count,
                    stored_first=part_first + start,
                    stored_rows=count,
                )
                yield slab
                first += slab.n_rows


class SlabReader:
    """Reads slabs from the files. One thread at a time; close it when done."""

    def __init__(self, dtype: mx.Dtype) -> None:
        """dtype: what the slabs are going to be cast to; what it cannot hold is refused."""
        is_half = dtype == mx.float16
        self._largest = _LARGEST_IN_F16 if is_half else _LARGEST_FINITE
        self._largest_scale = _SCALES_IN_F16 if is_half else _LARGEST_FINITE
        self._files: dict[Path, BufferedReader] = {}
        self._torch: dict[Path, TorchFile] = {}

    def read(self, slab: Slab) -> RawSlab:
        """Raises: CheckpointError: unreadable, shorter than its header said, NaN or infinity, or
        too large for the dtype."""
        tensor = slab.piece.tensor
        values = self._rows(tensor, slab.stored_first, slab.stored_rows)
        _check_numbers(values, tensor, self._largest)
        if slab.piece.scale is None:
            return RawSlab(slab=slab, values=values)
        info = slab.piece.scale
        scale = self._rows(info, 0, _rows(info.shape)).reshape(info.shape)
        _check_numbers(scale, info, self._largest_scale)
        return RawSlab(slab=slab, values=values, scale=scale_of_rows(scale, slab))

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def _rows(self, info: TensorInfo, first: int, count: int) -> Raw:
        if info.file.suffix != ".safetensors":
            if info.file not in self._torch:
                self._torch[info.file] = TorchFile(info.file)
            torch_file = self._torch[info.file]
            if not torch_file.is_contiguous(info.name):
                array = torch_file.read(info.name).reshape(_rows(info.shape), -1)
                return np.ascontiguousarray(array[first : first + count])
        dtype = np.dtype(np.uint8 if info.dtype == FP8 else NUMPY_DTYPES[info.dtype])
        columns = info.shape[-1] if info.shape else 1
        rows = np.empty((count, columns), dtype)
        self._fill(rows, info, info.begin + first * columns * dtype.itemsize)
        return rows

    def _fill(self, rows: Raw, info: TensorInfo, begin: int) -> None:
        if info.file not in self._files:
            self._files[info.file], _ = open_regular(info.file)
        file = self._files[info.file]
        view = rows.reshape(-1).view(np.uint8).data
        try:
            file.seek(begin)
            got = file.readinto(view)
        except OSError as error:
            raise CheckpointError(f"{info.file} cannot be read: {error.strerror}") from None
        if got < len(view):
            raise CheckpointError(f"{info.file} became shorter while it was read; try again")


def decode(raw: RawSlab, config: ModelConfig, dtype: mx.Dtype) -> mx.array:
    """The rows as the model has them, cast to the dtype; lazy.

    Shapes: -> (rows, columns).
    """
    array = mx.array(raw.values)
    if raw.slab.parameter.dtype == "BF16":
        array = array.view(mx.bfloat16)
    if raw.scale is not None:
        scale = mx.array(raw.scale)
        stored = raw.slab.piece.scale
        if stored is not None and stored.dtype == "BF16":
            scale = scale.view(mx.bfloat16)
        array = dequantize(array, scale)
    array = array.astype(dtype)
    if raw.slab.piece.form == "interleaved":
        return halves_from_pairs(array, config.head_dim)
    return mx.contiguous(array.T) if raw.slab.is_transposed else array


def _check_numbers(values: Raw, info: TensorInfo, limits: Mapping[str, int]) -> None:
    bits = values.view(np.dtype(f"u{values.itemsize}"))
    largest = int((bits & ((1 << (8 * values.itemsize - 1)) - 1)).max(initial=0))
    if largest > _LARGEST_FINITE[info.dtype]:
        raise CheckpointError(
            f"{info.file}: {shown(info.name)} holds NaN or infinity; download it again"
        )
    if largest > limits[info.dtype]:
        raise CheckpointError(
            f"{info.file}: {shown(info.name)} holds numbers too large for float16; use bfloat16"
        )


def _rows(shape: tuple[int, ...]) -> int:
    return math.prod(shape[:-1])


def _step(piece: Piece, rows: int, config: ModelConfig, slab_bytes: int) -> int:
    unit = config.head_dim if piece.form == "interleaved" else 1
    if piece.scale is not None:
        unit = math.lcm(unit, BLOCK)
    row_bytes = max(1, piece.tensor.nbytes // max(1, rows))
    return max(unit, slab_bytes // row_bytes // unit * unit)


def scale_of_rows(scale: Raw, slab: Slab) -> Raw:
    """The part of an FP8 scale that belongs to a slab's rows; see `fp8.dequantize` for shapes."""
    rows = _rows(slab.piece.tensor.shape)
    first, last = slab.stored_first, slab.stored_first + slab.stored_rows
    if scale.size == 1:
        return scale
    if scale.shape[0] == rows:
        return scale[first:last]
    return scale[first // BLOCK : -(-last // BLOCK)]
