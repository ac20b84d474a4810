"""Checkpoint files written by hand, well-formed or not: nothing under test takes part."""

from __future__ import annotations

import json
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, np.ndarray]

DTYPES = {"f4": "F32", "f2": "F16", "f8": "F64", "u1": "U8", "u4": "U32", "i8": "I64", "u2": "BF16"}
"""uint16 arrays stand for the bits of bfloat16."""


def bfloat16_bits(values: np.ndarray) -> np.ndarray:
    """Float32 numbers, cut to bfloat16 and given as uint16."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def safetensors_bytes(header: Any, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def write_safetensors(path: Path, arrays: Arrays, fp8: tuple[str, ...] = ()) -> None:
    """Uint8 arrays whose name is in `fp8` are marked as F8_E4M3."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    parts, position = [], 0
    for name, array in arrays.items():
        dtype = "F8_E4M3" if name in fp8 else DTYPES[array.dtype.str[1:]]
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(array.shape),
            "data_offsets": [position, position + len(raw)],
        }
        parts.append(raw)
        position += len(raw)
    path.write_bytes(safetensors_bytes(header, b"".join(parts)))


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value))


# A pickle, opcode by opcode (protocol 2, as torch.save writes it).


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(9, "little", signed=True)
    return b"\x8a\x09" + raw


def text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def items(*parts: bytes) -> bytes:
    return b"(" + b"".join(parts) + b"t"


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + items(*arguments) + b"R"


def storage(key: str, kind: str, size: int) -> bytes:
    return items(text("storage"), name("torch", kind), text(key), text("cpu"), number(size)) + b"Q"


def tensor(
    stored: bytes, shape: tuple[int, ...], strides: tuple[int, ...], offset: int = 0
) -> bytes:
    return call(
        name("torch._utils", "_rebuild_tensor_v2"),
        stored,
        number(offset),
        items(*map(number, shape)),
        items(*map(number, strides)),
        b"\x89",
        call(name("collections", "OrderedDict")),
    )


def state_dict(entries: Mapping[str, bytes]) -> bytes:
    pairs = b"".join(text(key) + value for key, value in entries.items())
    return b"\x80\x02}(" + pairs + b"u."


def write_torch_zip(
    path: Path,
    pickled: bytes,
    storages: Mapping[str, bytes],
    *,
    compression: int = zipfile.ZIP_STORED,
    byteorder: bytes = b"little",
) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", byteorder)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)


KINDS = {"f4": "FloatStorage", "f2": "HalfStorage", "u2": "BFloat16Storage", "u1": "ByteStorage"}


def write_torch(path: Path, arrays: Arrays) -> None:
    entries, storages = {}, {}
    for key, (tensor_name, array) in enumerate(arrays.items()):
        strides = tuple(step // array.itemsize for step in array.strides)
        stored = storage(str(key), KINDS[array.dtype.str[1:]], array.size)
        entries[tensor_name] = tensor(stored, array.shape, strides)
        storages[str(key)] = array.tobytes(order="A")
    write_torch_zip(path, state_dict(entries), storages)
