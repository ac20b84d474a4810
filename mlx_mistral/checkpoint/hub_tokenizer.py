"""The tokenizer of a repository on the Hub, without the weights beside it."""

from __future__ import annotations

import re
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import LocalEntryNotFoundError

from mlx_mistral.errors import CheckpointError

from .hub import told_plainly
from .hub_cache import BESIDE_WEIGHTS
from .hub_download import Silent
from .hub_headers import RemoteFiles
from .model_name import Repo, locate

LARGEST_SENTENCEPIECE = 1 << 21
"""The real ones have 0.6 MB; they are small enough to be fetched whole."""
TEKKEN_START = 1 << 12
"""A tekken.json has 15 to 19 MB; its configuration, with the version, comes first."""

_SENTENCEPIECE = re.compile(r"tokenizer\.model(?:\.v(\d{1,4}))?(?:m\d{1,4})?")
_VERSION = re.compile(rb'"version"\s*:\s*"(v\d{1,4})"')


def resolve_tokenizer(model: str | Path, *, progress: bool = True) -> Path:
    """A folder that holds the tokenizer of a MODEL; its weights need not be there.

    Raises: as `resolve`.
    """
    where = locate(model)
    if isinstance(where, Path):
        return where
    try:
        folder = _snapshot(where, local_files_only=True, progress=False)
        if any(map(_is_tokenizer, folder.iterdir())):
            return folder
    except LocalEntryNotFoundError:
        pass
    with told_plainly(where):
        return _snapshot(where, local_files_only=False, progress=progress)


def peek_at_tokenizer(repo: Repo, folder: Path) -> str | None:
    """The version of a repository's tokenizer, from names and a file's first bytes.

    None where these do not say. A SentencePiece file, being small, is then written to `folder`,
    to be loaded from there. Nothing else is kept.
    Raises: as `read_repo`.
    """
    with told_plainly(repo):
        remote = RemoteFiles.of(repo)
        sizes = remote.sizes
        if "tekken.json" in sizes:
            start = remote.read("tekken.json", 0, min(TEKKEN_START, sizes["tekken.json"]))
            version = _VERSION.search(start)
            return f"{version[1].decode()}-tekken" if version else None
        name = max(filter(_SENTENCEPIECE.fullmatch, sizes), key=_number, default=None)
        if name is None:
            return "tokenizer.json" if "tokenizer.json" in sizes else None
        if sizes[name] > LARGEST_SENTENCEPIECE:
            raise CheckpointError(f"{repo}: {name} is too large for a tokenizer")
        (folder / name).write_bytes(remote.read(name, 0, sizes[name]))
        return None


def _snapshot(repo: Repo, *, local_files_only: bool, progress: bool) -> Path:
    return Path(
        huggingface_hub.snapshot_download(
            repo.id,
            revision=repo.revision,
            allow_patterns=list(BESIDE_WEIGHTS),
            local_files_only=local_files_only,
            tqdm_class=None if progress else Silent,
        )
    )


def _is_tokenizer(path: Path) -> bool:
    name = path.name
    return name in ("tekken.json", "tokenizer.json") or bool(_SENTENCEPIECE.fullmatch(name))


def _number(name: str) -> int:
    match = _SENTENCEPIECE.fullmatch(name)
    return int(match[1] or 0) if match else -1
