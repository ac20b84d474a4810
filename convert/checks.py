"""What is refused before anything is written, each in one line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from mlx_mistral.checkpoint.load import hollow_model
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.errors import ConversionError
from mlx_mistral.files.tensor_info import FLOATS
from mlx_mistral.files.untrusted import shown

from .shards import Shard
from .workspace import FINDER_FILE, MANIFEST, Workspace

_SPARE_BYTES = 1 << 20
_FULL = (errno.ENOSPC, errno.EDQUOT)


def check_dest(source: Path, dest: Path, *, overwrite: bool) -> Path:
    """Where to write, links resolved.

    Raises: ConversionError: it is the source or around it, it exists and must not, or it is
        something else than a model.
    """
    place, origin = Path(os.path.realpath(dest)), Path(os.path.realpath(source))
    for part in (origin, *(Path(os.path.realpath(entry)) for entry in origin.iterdir())):
        if any(_is_same(place, folder) for folder in (origin, *part.parents)):
            fault = (
                "is the folder of SOURCE" if _is_same(place, origin) else "holds what is in SOURCE"
            )
            raise ConversionError(
                f"DEST {fault}, {part}; a source is never changed: choose another DEST"
            )
    if place.name == "":
        raise ConversionError(f"{place} cannot be a model's folder; choose another DEST")
    if place.is_symlink():
        raise ConversionError(f"{place} is a link that leads nowhere; choose another DEST")
    if not place.exists():
        return place
    if not place.is_dir():
        raise ConversionError(f"{place} is a file; choose another DEST")
    names = [name for name in os.listdir(place) if name != FINDER_FILE]
    if not names:
        return place
    if not overwrite:
        raise ConversionError(
            f"{place} exists; choose another DEST, or replace it with --overwrite"
        )
    weights = any(fnmatch(name, "model*.safetensors") for name in names)
    if MANIFEST not in names and not (weights and "config.json" in names):
        raise ConversionError(
            f"{place} holds no model, so it is not replaced; choose another DEST or remove it"
        )
    return place


def _is_same(place: Path, folder: Path) -> bool:
    """Return whether two paths are one folder: a Mac's disk ignores upper and lower case."""
    try:
        return os.path.samefile(place, folder)
    except OSError:
        return place == folder


def check_source(checkpoint: Checkpoint, where: Path) -> None:
    """Raises: ConversionError: already quantized, or in numbers that are not weights.
    CheckpointError: its tensors are not those of its configuration."""
    if checkpoint.config.quantization is not None or any(
        name.endswith(".scales") for name in checkpoint.parameters
    ):
        raise ConversionError(
            f"{where} is quantized already, and quantizing it again would add to its errors; "
            "convert the original weights"
        )
    for parameter in checkpoint.parameters.values():
        if not parameter.is_float:
            raise ConversionError(
                f"{where}: {shown(parameter.stored_name)} is {parameter.dtype}; only "
                f"{', '.join(sorted(FLOATS))} and scaled FP8 are converted"
            )
    hollow_model(checkpoint, str(where))


def check_room(workspace: Workspace, shards: Sequence[Shard], beside: Sequence[Path]) -> None:
    """Raises: ConversionError: the disk has too little room for what is still to be written."""
    missing = [shard for shard in shards if shard.name not in workspace.finished]
    needed = sum(shard.nbytes for shard in missing) + sum(path.stat().st_size for path in beside)
    free = shutil.disk_usage(workspace.folder).free
    if needed + _SPARE_BYTES > free:
        raise ConversionError(
            f"the result takes {needed / 1e9:.2f} GB more, {workspace.dest.parent} has "
            f"{free / 1e9:.2f} GB free; make room or choose a DEST on another disk"
        )


@contextmanager
def told_plainly(dest: Path) -> Iterator[None]:
    """Turns what the system says while the result is written into one line."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise ConversionError(
                f"the disk of {dest} is full; make room and run the same command again: "
                "finished files are kept"
            ) from None
        place = error.filename or dest
        raise ConversionError(
            f"{place}: {error.strerror}; DEST must be in a folder that can be written"
        ) from None
