"""MLX's packed formats, read from a file's bytes with NumPy alone.

Sources: the safetensors description; mlx.core.quantize's documentation (words hold the codes as
one little-endian stream of bits); OCP Microscaling Formats (MX) 1.0, sections 5.2 and 5.3 (E2M1,
E4M3, E8M0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

Arrays = Mapping[str, np.ndarray]

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
E2M1 = np.concatenate([E2M1, -E2M1])


def _e4m3(code: int) -> float:
    sign, exponent, mantissa = -1 if code & 0x80 else 1, (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    power = 2.0 ** (max(exponent, 1) - 7)
    return sign * (mantissa / 8 + (exponent > 0)) * power


E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)
GRIDS = {"mxfp4": E2M1, "nvfp4": E2M1, "mxfp8": E4M3[np.isfinite(E4M3)]}
"""Every number that a code can stand for, before its scale."""


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a folder's safetensors files; bfloat16 comes as float32."""
    tensors: dict[str, np.ndarray] = {}
    for file in sorted(folder.glob("*.safetensors")):
        tensors |= read_file(file)
    return tensors


def read_file(file: Path) -> dict[str, np.ndarray]:
    raw = file.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    header.pop("__metadata__", None)
    return {name: _array(entry, data) for name, entry in header.items()}


def _array(entry: dict[str, object], data: bytes) -> np.ndarray:
    begin, end = entry["data_offsets"]  # type: ignore[misc]
    kind = {"U32": "<u4", "U8": "u1", "BF16": "<u2", "F16": "<f2", "F32": "<f4"}[entry["dtype"]]  # type: ignore[index]
    array = np.frombuffer(data[begin:end], kind).reshape(entry["shape"])  # type: ignore[call-overload]
    if entry["dtype"] == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def codes_of(words: np.ndarray, bits: int) -> np.ndarray:
    """Shapes: uint32 (..., n * bits / 32) -> integers (..., n)."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=-1, bitorder="little")
    codes = stream.reshape(*words.shape[:-1], -1, bits).astype(np.int64)
    return (codes << np.arange(bits)).sum(-1)


def scale_of(codes: np.ndarray, mode: str) -> np.ndarray:
    """E8M0 is a power of two; nvfp4's scales are E4M3."""
    return E4M3[codes] if mode == "nvfp4" else np.exp2(codes.astype(np.float64) - 127)


def dequantize(
    tensors: Arrays, module: str, *, bits: int, group_size: int, mode: str
) -> np.ndarray:
    """The weights that a module's tensors stand for, in float64. Shapes: -> (..., columns)."""
    codes = codes_of(tensors[f"{module}.weight"], bits)
    scales = tensors[f"{module}.scales"]
    if mode == "affine":
        biases = np.repeat(tensors[f"{module}.biases"].astype(np.float64), group_size, -1)
        return codes * np.repeat(scales.astype(np.float64), group_size, -1) + biases
    values = (E4M3 if bits == 8 else E2M1)[codes].astype(np.float64)
    return values * np.repeat(scale_of(scales, mode), group_size, -1)


def bfloat16(values: np.ndarray) -> np.ndarray:
    """Float32 rounded to bfloat16, ties to even, and given as float32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)
