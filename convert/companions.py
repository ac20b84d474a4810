"""What travels along unchanged: tokenizer, chat template, generation settings, licence."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from mlx_mistral.checkpoint.hub_cache import BESIDE_WEIGHTS
from mlx_mistral.errors import ConversionError
from mlx_mistral.files.disk import ignores_case
from mlx_mistral.files.untrusted import open_regular

LARGEST_BYTES = 256 << 20
"""Far above any real tokenizer."""
_ALSO = ("SYSTEM_PROMPT.txt", "NOTICE*")


def companions(source: Path) -> list[Path]:
    """The files to copy. Raises: ConversionError: one is too large to be what its name
    says, or is a link to somewhere else."""
    files = [
        path
        for path in sorted(source.iterdir())
        if path.is_file() and any(fnmatch(path.name, one) for one in (*BESIDE_WEIGHTS, *_ALSO))
    ]
    for path in files:
        if not _belongs(path, source):
            raise ConversionError(
                f"{path} links to a file outside of the model's folder, which is not copied; "
                "put the file there or remove the link"
            )
        if path.stat().st_size > LARGEST_BYTES:
            raise ConversionError(
                f"{path} has {path.stat().st_size} bytes, too many for such a file; remove it or "
                "download it again"
            )
    return files


def check_names(files: Sequence[Path], folder: Path) -> None:
    """Raises: ConversionError: the folder's disk ignores case, and would keep one of two files."""
    if not ignores_case(folder):
        return
    by_folded: dict[str, str] = {}
    for name in (path.name for path in files):
        other = by_folded.setdefault(name.casefold(), name)
        if other != name:
            raise ConversionError(
                f"{other} and {name} differ only in upper and lower case, which the disk of "
                f"{folder} ignores; remove or rename one of them"
            )


def _belongs(path: Path, source: Path) -> bool:
    """Whether a file lies in the folder, or in the Hub's cache to which its snapshots link."""
    target = path.resolve()
    blobs = source.resolve().parent.parent / "blobs"
    return target.is_relative_to(source.resolve()) or target.parent == blobs


def copy(path: Path, folder: Path) -> None:
    """Copies one file. Raises: CheckpointError: unreadable. OSError."""
    file, _ = open_regular(path)
    with file, open(folder / path.name, "xb") as target:
        shutil.copyfileobj(file, target)
