"""A measurement is kept in a file, so that it is made once for several sizes and restarts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.errors import CheckpointError, ConversionError
from mlx_mistral.files.untrusted import read_json

from .checks import told_plainly
from .measured import Damages
from .workspace import replace_json

LARGEST_BYTES = 1 << 30
"""The importance of every expert's inputs is some tens of megabytes in a large mixture."""
_BEGUN: dict[str, Any] = {"key": None}
"""A measurement that was never finished."""


def kept_beside(dest: Path) -> Path:
    """Where a measurement is kept until DEST is whole, unless it was given a place."""
    return dest.parent / f".{dest.name}.damages.json"


def measured_once(
    file: Path, *, key: str, measure: Callable[[], Damages], must_match: bool
) -> Damages:
    """The measurement in a file, if it is that of `key`; else a new one, which is then kept.

    must_match: a file of another key, or none of ours, is an error and stays as it is.
    Raises: ConversionError: that, or the file cannot be written. As `measure`.
    """
    if file.exists():
        fault = None
        try:
            data = read_json(file, max_bytes=LARGEST_BYTES)
            if data.get("key") == key:
                return Damages.from_json(data.get("measured"))
            if data != _BEGUN:
                fault = "was measured on another model or text"
        except (CheckpointError, ConversionError) as error:
            fault = f"holds no measurement ({error})"
        if fault and must_match:
            raise ConversionError(f"{file} {fault}; give another file to keep a new one in")
    with told_plainly(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Before the work, not after it: a place that cannot be written is no surprise then.
        replace_json(file, _BEGUN)
    try:
        measured = measure()
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    with told_plainly(file):
        replace_json(file, {"key": key, "measured": measured.to_json()})
    return measured


def measurement_key(
    checkpoint: Checkpoint, ids: Sequence[int], bos_id: int | None, stored: str
) -> str:
    """Names the model's files, the text, and the dtype of the scales that were measured."""
    about = {"files": file_states(checkpoint), "bos_id": bos_id, "stored": stored}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(np.asarray(ids, dtype=np.int64).tobytes())
    return digest.hexdigest()


def file_states(checkpoint: Checkpoint) -> dict[str, list[int]]:
    """Each weight file with its size and time of change: other ones are taken for other files."""
    states = {}
    for file in checkpoint.headers.files:
        status = file.stat() if file.exists() else None
        states[str(file.resolve())] = [status.st_size, status.st_mtime_ns] if status else []
    return states
