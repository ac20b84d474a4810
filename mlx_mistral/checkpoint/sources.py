"""Stored tensors as MLX arrays, from whichever kind of file holds them."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.safetensors import read_header
from mlx_mistral.files.tensor_info import TensorInfo
from mlx_mistral.files.untrusted import shown

from .torch_pickle import TorchFile

UNREADABLE = frozenset({"F64", "F8_E5M2", "F4"})
"""Dtypes for which MLX refuses a whole file."""


class Sources:
    """Reads tensors that a checked header has described."""

    def __init__(self) -> None:
        self._torch: dict[Path, TorchFile] = {}
        self._lazy: dict[Path, dict[str, mx.array]] = {}

    def read(self, info: TensorInfo) -> mx.array:
        """One tensor; from safetensors files lazily, so that nothing is held before it is used.

        Bytes of FP8 come as uint8. Raises: CheckpointError: unreadable, or a dtype MLX lacks.
        """
        if info.file.suffix != ".safetensors":
            return self._read_torch(info)
        # Taken out, so that this table keeps no evaluated array alive; read again, opened anew.
        arrays = self._lazy.get(info.file, {})
        if info.name not in arrays:
            arrays = self._lazy[info.file] = _open(info.file)
        array = arrays.pop(info.name, None)
        if array is None or array.shape != info.shape:
            raise CheckpointError(f"{info.file} changed while it was read; try again")
        return array

    def _read_torch(self, info: TensorInfo) -> mx.array:
        if info.dtype in UNREADABLE:
            raise _unreadable(info)
        if info.file not in self._torch:
            self._torch[info.file] = TorchFile(info.file)
        array = mx.array(self._torch[info.file].read(info.name))
        return array.view(mx.bfloat16) if info.dtype == "BF16" else array


def evaluated(array: mx.array, what: str) -> mx.array:
    """The array, computed now, on this thread. Raises: CheckpointError: its data are gone."""
    try:
        mx.eval(array)
    except RuntimeError as error:
        raise CheckpointError(f"{what} cannot be read: {error}") from None
    return array


def _open(file: Path) -> dict[str, mx.array]:
    # Checked again right before MLX sees the file, which crashes on a malformed header.
    for info in read_header(file).values():
        if info.dtype in UNREADABLE:
            raise _unreadable(info)
    try:
        arrays = mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None
    assert isinstance(arrays, dict)
    return arrays


def _unreadable(info: TensorInfo) -> CheckpointError:
    return CheckpointError(
        f"{info.file}: {shown(info.name)} is {info.dtype}, which MLX cannot read; "
        "save it in BF16, F16 or F32"
    )
