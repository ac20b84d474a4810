"""A strict reader of safetensors headers, in plain Python.

MLX's own reader accepts negative, wrapping and overlapping shapes and then crashes, so a
header is checked here in full before MLX sees the file.
Source: the format's description, https://github.com/huggingface/safetensors#format.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_mistral.errors import CheckpointError

from .tensor_info import DTYPE_BITS, TensorInfo
from .untrusted import MAX_JSON_BYTES, open_regular, parse_json, shown

LENGTH_BYTES = 8
MAX_NAME = 512
MAX_RANK = 8
MAX_DIMENSION = (1 << 31) - 1
"""Shapes are 32-bit signed integers in MLX; a larger one would wrap there."""


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file, from its header alone.

    Raises: CheckpointError: as `parse_header`; also no regular file. ModelNotFoundError: missing.
    """
    file, size = open_regular(path)
    with file:
        length = header_length(file.read(LENGTH_BYTES), size, path)
        return parse_header(file.read(length), size, path)


def header_length(start: bytes, file_bytes: int, path: Path) -> int:
    """Bytes of JSON that follow the first eight.

    Raises: CheckpointError: the file is too short for a header, or the header is longer than
        the file or than any real one.
    """
    if len(start) < LENGTH_BYTES:
        raise _malformed(path, "the file ends before its header")
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if length > MAX_JSON_BYTES:
        raise _malformed(path, f"the header claims {length} bytes; at most {MAX_JSON_BYTES} go")
    if LENGTH_BYTES + length > file_bytes:
        raise _malformed(path, f"the header claims {length} bytes, the file has {file_bytes}")
    return length


def parse_header(raw: bytes, file_bytes: int, path: Path) -> dict[str, TensorInfo]:
    """The tensors that a header describes. `path` is only named in errors and results.

    Raises: CheckpointError: the header is no JSON object or has duplicate keys; an entry has
        other keys than dtype, shape and data_offsets; a dtype is unknown; a dimension or an
        offset is no integer, negative or too large; the byte count does not follow from
        dtype and shape; tensors overlap, leave holes, or end before or behind the file's end.
    """
    if not raw.startswith(b"{"):
        raise _malformed(path, "the header does not begin with '{'")
    header = parse_json(raw, f"{path}: safetensors header")
    _check_metadata(header.pop("__metadata__", {}), path)
    data_begin = LENGTH_BYTES + len(raw)
    tensors = {name: _tensor(name, entry, data_begin, path) for name, entry in header.items()}
    _check_coverage(tensors, data_begin, file_bytes, path)
    return tensors


def _tensor(name: str, entry: object, data_begin: int, path: Path) -> TensorInfo:
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME:
        raise _malformed(path, f"{shown(name)} is no tensor name")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _malformed(path, f"{shown(name)} is not described by dtype, shape and data_offsets")
    dtype = entry["dtype"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise _malformed(path, f"{shown(name)} has the unknown dtype {shown(dtype)}")
    shape = _integers(entry["shape"], MAX_DIMENSION, f"shape of {shown(name)}", path)
    if len(shape) > MAX_RANK:
        raise _malformed(path, f"{shown(name)} has {len(shape)} dimensions; at most {MAX_RANK} go")
    offsets = _integers(entry["data_offsets"], 1 << 62, f"data_offsets of {shown(name)}", path)
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _malformed(path, f"the data_offsets of {shown(name)} are no begin and end")
    info = TensorInfo(
        name=name,
        dtype=dtype,
        shape=shape,
        begin=data_begin + offsets[0],
        end=data_begin + offsets[1],
        file=path,
    )
    bits = DTYPE_BITS[dtype] * info.size
    if bits != 8 * info.nbytes:
        raise _malformed(
            path,
            f"{shown(name)} is {dtype} of shape {list(shape)}, {bits / 8:.0f} bytes, "
            f"but its data_offsets span {info.nbytes}",
        )
    return info


def _integers(value: object, limit: int, what: str, path: Path) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > MAX_NAME:
        raise _malformed(path, f"the {what} is no list of integers")
    for item in value:
        if type(item) is not int or not 0 <= item <= limit:
            raise _malformed(path, f"the {what} holds {shown(item)}; integers from 0 up go there")
    return tuple(value)


def _check_metadata(metadata: Any, path: Path) -> None:
    if metadata is None:  # as MLX writes none
        return
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _malformed(path, "__metadata__ is no table of texts")


def _check_coverage(
    tensors: Mapping[str, TensorInfo], data_begin: int, file_bytes: int, path: Path
) -> None:
    """Every byte behind the header belongs to exactly one tensor."""
    position = data_begin
    for info in sorted(tensors.values(), key=lambda info: (info.begin, info.end)):
        if info.end > file_bytes:
            raise _malformed(
                path, f"{shown(info.name)} ends at byte {info.end}, the file at {file_bytes}"
            )
        if info.begin != position:
            fault = "overlaps another tensor" if info.begin < position else "follows a hole"
            raise _malformed(path, f"{shown(info.name)} {fault} at byte {info.begin}")
        position = info.end
    if position != file_bytes:
        raise _malformed(path, f"{file_bytes - position} bytes follow the last tensor")


def _malformed(path: Path, what: str) -> CheckpointError:
    return CheckpointError(f"{path}: {what}; the file is damaged or truncated: download it again")
