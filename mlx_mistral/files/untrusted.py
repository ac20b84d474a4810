"""Opening what a stranger wrote: regular files of bounded size, JSON without surprises."""

from __future__ import annotations

import json
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Any, NoReturn

from mlx_mistral.errors import CheckpointError, ModelNotFoundError

MAX_JSON_BYTES = 16 << 20
"""Far above any real config, index or safetensors header (a few MB for the largest models)."""


def open_regular(path: Path) -> tuple[BufferedReader, int]:
    """The file, open for reading, and its size in bytes.

    Opened without blocking, so that a FIFO is refused instead of waited on.
    Raises: ModelNotFoundError: nothing is there. CheckpointError: no regular file, or unreadable.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise ModelNotFoundError(
            f"{path} is missing; complete the folder or download the model again"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be opened: {error.strerror}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"{path} is no regular file; a model's files must be plain files")
    return os.fdopen(descriptor, "rb"), status.st_size


def read_json(path: Path, *, max_bytes: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The JSON object in a file. Raises: CheckpointError: not one, or too large to be one."""
    file, size = open_regular(path)
    with file:
        if size > max_bytes:
            raise CheckpointError(
                f"{path} has {size} bytes; no real one exceeds {max_bytes}; "
                "download the model again"
            )
        return parse_json(file.read(size), str(path))


def parse_json(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object in which no key occurs twice.

    Raises: CheckpointError: not UTF-8, not JSON, nested too deeply, duplicate keys, NaN or
        Infinity, a number too long, or something other than an object.
    """
    try:
        value = json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique_keys, parse_constant=_no_constant
        )
    except RecursionError:
        raise CheckpointError(f"{where}: the JSON is nested too deeply") from None
    except ValueError as error:
        raise CheckpointError(f"{where}: not valid JSON ({error})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{where}: the JSON is no object")
    return value


def shown(text: object) -> str:
    """A name from a file, safe to print: escaped, and cut where it is long."""
    escaped = ascii(text)
    return escaped if len(escaped) <= 120 else f"{escaped[:117]}..."


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique: dict[str, Any] = {}
    for key, value in pairs:
        if key in unique:
            raise ValueError(f"the key {shown(key)} occurs twice")
        unique[key] = value
    return unique


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
