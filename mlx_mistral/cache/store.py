"""Caches on disk: what was read once need not be read again.

A file holds the keys and values of every layer, the token ids they came from, the fingerprint
of the model that made them, and a checksum over all of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mistral.errors import CacheError, CheckpointError
from mlx_mistral.files.safetensors import read_header

from .base import KVCache
from .quantized import is_quantized

_FORMAT = "mlx-mistral cache 3"


def save_cache(
    path: str | Path,
    cache: Sequence[KVCache],
    *,
    fingerprint: str,
    token_ids: Sequence[int] = (),
    checksum: bool = True,
) -> None:
    """Writes a cache of one text beside `path`, then renames it into place.

    fingerprint: of the model; see `Model.fingerprint`.
    checksum: False where the caller keeps one of the file.
    Raises: CacheError: the cache is empty or of a padded batch, or the disk refuses.
    """
    path = Path(path)
    if any(one.left_padding for one in cache):
        raise CacheError("a padded batch cannot be saved; save the cache of one text")
    if not cache or cache[0].empty():
        raise CacheError("the cache is empty; there is nothing to save")
    arrays = {"token_ids": mx.array(list(token_ids), dtype=mx.int32)}
    for i, one in enumerate(cache):
        for name, rows in zip(one.state_names, one.held(), strict=True):
            arrays[f"{i}.{name}"] = mx.contiguous(rows)
    metadata = {
        "format": _FORMAT,
        "fingerprint": fingerprint,
        "layers": json.dumps([_describe(one) for one in cache]),
    }
    if checksum:
        metadata["checksum"] = _checksum(arrays, metadata["layers"])
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial.safetensors")
    try:
        mx.save_safetensors(str(partial), arrays, metadata)
        partial.replace(path)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise CacheError(f"cannot write {path}: {error}; check the folder and the disk") from error


def load_cache(
    path: str | Path,
    cache: Sequence[KVCache],
    *,
    fingerprint: str,
    is_checked: bool = False,
) -> list[int]:
    """Fills the new caches of a model from a file; returns the token ids they hold.

    cache: as the model's `make_cache` gives them; untouched where the file is refused.
    is_checked: the file is as it was written, and has no checksum.
    Raises: CacheError: the file is of another model or kind of cache, or is damaged.
    """
    path = Path(path)
    try:
        header = read_header(path)
        loaded: Any = mx.load(str(path), return_metadata=True)
    except (CheckpointError, RuntimeError) as error:
        raise CacheError(f"{path} is not a cache file: {error}") from error
    except OSError as error:
        raise CacheError(f"{path} cannot be read: {error.strerror}; check the disk") from error
    arrays, metadata = loaded
    if metadata.get("format") != _FORMAT:
        raise CacheError(f"{path} is not a cache file of this version; make it anew")
    if metadata.get("fingerprint") != fingerprint:
        raise CacheError(f"{path} was made by another model; its keys mean nothing to this one")
    layers = _parse_layers(metadata.get("layers", ""), path)
    expected = [_describe(one) for one in cache]
    if [{**a, "offset": 0} for a in layers] != [{**b, "offset": 0} for b in expected]:
        raise CacheError(f"{path} was made with another context, window or kv_bits; make it anew")
    offsets = {layer["offset"] for layer in layers}
    if len(offsets) != 1 or min(offsets) < 1:
        raise CacheError(f"{path} is damaged: its layers hold different texts")
    offset = offsets.pop()
    held = [_held(i, one, offset, header, arrays, path) for i, one in enumerate(cache)]
    try:
        mx.eval(held)
        damaged = not is_checked and metadata.get("checksum") != _checksum(
            arrays, metadata["layers"]
        )
    except RuntimeError as error:
        raise CacheError(f"{path} cannot be read: {error}; check the disk") from error
    if damaged:
        raise CacheError(f"{path} is damaged: its checksum differs; the text is to be read again")
    for one, buffers in zip(cache, held, strict=True):
        one.load(buffers, offset)
    return list(arrays["token_ids"].tolist()) if "token_ids" in arrays else []


def _checksum(arrays: Mapping[str, mx.array], layers: str) -> str:
    """SHA-256 in hexadecimal. Raises: RuntimeError: the disk refuses."""
    sum_ = hashlib.sha256(layers.encode())
    for name in sorted(arrays):
        sum_.update(name.encode())
        if arrays[name].size:
            raw: Any = arrays[name].reshape(-1).view(mx.uint8)
            sum_.update(memoryview(raw))
    return sum_.hexdigest()


def _describe(cache: KVCache) -> dict[str, Any]:
    return {
        "window": cache.window,
        "limit": cache.limit,
        "kv_bits": cache.kv_bits,
        "offset": cache.offset,
    }


def _parse_layers(text: str, path: Path) -> list[dict[str, Any]]:
    try:
        layers = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CacheError(f"{path} is damaged: its description is not JSON") from error
    keys = {"window", "limit", "kv_bits", "offset"}
    if not isinstance(layers, list) or not all(
        isinstance(layer, dict) and set(layer) == keys and type(layer["offset"]) is int
        for layer in layers
    ):
        raise CacheError(f"{path} is damaged: its description is incomplete")
    return layers


def _held(
    i: int,
    cache: KVCache,
    offset: int,
    header: dict[str, Any],
    arrays: dict[str, mx.array],
    path: Path,
) -> tuple[mx.array, ...]:
    window = offset if cache.window is None else cache.window
    allowed = (min(offset, window), min(offset, window - 1)) if cache.window else (offset,)
    names = [f"{i}.{name}" for name in cache.state_names]
    for name in names:
        if name not in header or arrays[name].ndim != 4 or arrays[name].shape[2] not in allowed:
            raise CacheError(f"{path} is damaged: {name} is missing or has the wrong shape")
    held = tuple(arrays[name] for name in names)
    kinds = [(one.shape, one.dtype) for one in held]
    half = len(kinds) // 2
    if kinds[:half] != kinds[half:]:
        raise CacheError(f"{path} is damaged: keys and values of layer {i} differ in shape")
    if cache.kv_bits is not None and not is_quantized(held[:half], cache.kv_bits):
        raise CacheError(f"{path} is damaged: layer {i} is not of {cache.kv_bits} bits")
    return held
