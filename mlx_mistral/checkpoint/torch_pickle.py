"""Reads `.pth` and `.pt` files (zip archives made by `torch.save`) without torch.

Source: PyTorch's notes on serialization: `<root>/data.pkl` describes the tensors,
`<root>/data/<key>` holds each storage, uncompressed.
"""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.disk import read_into
from mlx_mistral.files.tensor_info import DTYPE_BITS, TensorInfo
from mlx_mistral.files.untrusted import open_regular, shown

from .pickle_machine import StoredTensor, read_state_dict

MAX_PICKLE_BYTES = 16 << 20
MAX_DIRECTORY_BYTES = 64 << 20
LOCAL_HEADER = struct.Struct("<4s22xHH")
ENCRYPTED = 0x1
PICKLE = "data.pkl"
_BAD_ARCHIVE = (zipfile.BadZipFile, NotImplementedError, struct.error, OSError, ValueError)

NUMPY_DTYPES = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "I32": np.int32,
    "I64": np.int64, "F16": np.float16, "BF16": np.uint16, "F32": np.float32, "F64": np.float64,
}  # fmt: skip
"""How each dtype is read; NumPy has no bfloat16, so its bits come as uint16."""


class TorchFile:
    """A `.pth` file: what it holds, and each tensor's elements on request.

    Raises: CheckpointError: no zip archive, members that are compressed, encrypted, duplicate
        or overlapping, a pickle that does anything but build tensors, a storage that is
        missing or too short. ModelNotFoundError: no such file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        file, _ = open_regular(path)
        with file:
            try:
                with zipfile.ZipFile(_BoundedReader(file)) as archive:
                    self._members = _stored_members(archive, file)
                    pickled = archive.read(self._root() + PICKLE)
                    order = self._root() + "byteorder"
                    if order in self._members and archive.read(order) != b"little":
                        raise zipfile.BadZipFile("it is not in little-endian byte order")
            except _BAD_ARCHIVE as error:
                raise CheckpointError(
                    f"{path} is no archive of torch.save ({shown(str(error))}); if it is one from "
                    "before PyTorch 1.6, save it anew, or use safetensors files"
                ) from None
        self._tensors = read_state_dict(pickled, str(path))
        self.tensors = {name: self._info(name, t) for name, t in self._tensors.items()}

    def read(self, name: str) -> npt.NDArray[Any]:
        """One tensor's elements, read from the file now; bfloat16 as its bits in uint16."""
        tensor, info = self._tensors[name], self.tensors[name]
        dtype = np.dtype(NUMPY_DTYPES[info.dtype])
        count = info.nbytes // dtype.itemsize
        file, _ = open_regular(self.path)
        with file:
            elements = np.empty(count, dtype)
            n_read = read_into(file.fileno(), elements.view(np.uint8).data, info.begin)
        if n_read < elements.nbytes:
            raise CheckpointError(f"{self.path} became shorter while it was read; try again")
        strides = [step * dtype.itemsize for step in tensor.strides]
        return np.lib.stride_tricks.as_strided(elements, tensor.shape, strides, writeable=False)

    def is_contiguous(self, name: str) -> bool:
        """Whether a tensor's elements lie in the file in the order of its rows."""
        tensor, step = self._tensors[name], 1
        for size, stride in zip(reversed(tensor.shape), reversed(tensor.strides), strict=True):
            if size != 1 and stride != step:
                return False
            step *= size
        return True

    def _root(self) -> str:
        """The archive's one top folder, with its slash."""
        roots = [name[: -len(PICKLE)] for name in self._members if name.endswith("/" + PICKLE)]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise zipfile.BadZipFile(f"it holds {len(roots)} folders with a {PICKLE}")
        return roots[0]

    def _info(self, name: str, tensor: StoredTensor) -> TensorInfo:
        """Where a tensor's elements lie in the file; the pickle has bounded them already."""
        item_bytes = DTYPE_BITS[tensor.dtype] // 8
        member = self._members.get(f"{self._root()}data/{tensor.key}")
        if member is None or tensor.storage_size * item_bytes > member[1]:
            raise CheckpointError(
                f"{self.path}: the data of {shown(name)} are missing or truncated; "
                "download the file again"
            )
        first = member[0] + tensor.offset * item_bytes
        extent = 0
        if all(tensor.shape):
            steps = zip(tensor.shape, tensor.strides, strict=True)
            extent = 1 + sum((size - 1) * step for size, step in steps)
        return TensorInfo(
            name=name,
            dtype=tensor.dtype,
            shape=tensor.shape,
            begin=first,
            end=first + extent * item_bytes,
            file=self.path,
        )


def _stored_members(archive: zipfile.ZipFile, file: BinaryIO) -> dict[str, tuple[int, int]]:
    """For each member its first byte in the file and its size.

    Members must be stored plain and apart: what is compressed or shared can grow without bound.
    """
    members: dict[str, tuple[int, int]] = {}
    limit = archive.start_dir
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset, reverse=True):
        what = shown(info.filename)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise zipfile.BadZipFile(f"its member {what} is compressed; torch.save stores plainly")
        if info.flag_bits & ENCRYPTED:
            raise zipfile.BadZipFile(f"its member {what} is encrypted")
        if info.filename in members:
            raise zipfile.BadZipFile(f"its member {what} occurs twice")
        if info.filename.endswith(PICKLE) and info.file_size > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile(f"its member {what} is larger than any checkpoint's")
        file.seek(info.header_offset)
        signature, name_bytes, extra_bytes = LOCAL_HEADER.unpack(file.read(LOCAL_HEADER.size))
        begin = info.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
        if signature != b"PK\x03\x04" or begin + info.file_size > limit:
            raise zipfile.BadZipFile(f"its member {what} reaches into another or past the end")
        members[info.filename] = (begin, info.file_size)
        limit = info.header_offset
    return members


class _BoundedReader:
    """Keeps a forged directory size from filling memory."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self._file = file

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile("its directory is larger than any checkpoint's")
        return self._file.read(MAX_DIRECTORY_BYTES if size < 0 else size)

    def close(self) -> None:
        """The file belongs to the caller."""
