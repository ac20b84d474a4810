"""What the Hub's cache holds, without a request to the network."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import CacheNotFound, LocalEntryNotFoundError
from huggingface_hub.file_download import repo_folder_name

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import CheckpointError, ConfigError, ModelNotFoundError
from mlx_mistral.files.untrusted import read_json

from .layouts import HF_CONFIG, OFFICIAL_CONFIG, find_files
from .model_name import Repo, locate
from .names import Layout

BESIDE_WEIGHTS = (
    "generation_config.json", "tekken.json", "tokenizer*", "special_tokens_map.json",
    "chat_template*", "LICENSE*", "LICENCE*",
)  # fmt: skip
"""What text needs beside weights and configuration, and the terms they come under."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedModel:
    """One revision of a repository that lies in the cache and that we can run."""

    repo: str
    revision: str
    """The branch or tag it was fetched as; else the commit."""
    path: Path
    nbytes: int
    layout: Layout
    is_complete: bool


def cached_folder(repo: Repo, *, weights_alone: bool = False) -> Path | None:
    """The snapshot of a repository in the cache, if nothing of it is missing."""
    for config in (HF_CONFIG, OFFICIAL_CONFIG):
        path = huggingface_hub.try_to_load_from_cache(repo.id, config, revision=repo.revision)
        if not isinstance(path, str):
            continue
        folder = Path(path).parent
        try:
            files = find_files(folder)
            if not weights_alone:
                # Knows the repository's listing, so also what was never begun.
                huggingface_hub.snapshot_download(
                    repo.id,
                    revision=repo.revision,
                    allow_patterns=[*files.patterns, *BESIDE_WEIGHTS],
                    local_files_only=True,
                )
        except (CheckpointError, LocalEntryNotFoundError):
            continue
        return folder
    return None


def list_cached() -> list[CachedModel]:
    """The models of supported architectures in the cache, by name."""
    try:
        cache = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        return []
    models = []
    for repo in cache.repos:
        for revision in repo.revisions if repo.repo_type == "model" else ():
            layout = _layout(revision.snapshot_path)
            if layout is None:
                continue
            name = min(revision.refs, default=revision.commit_hash)
            models.append(
                CachedModel(
                    repo=repo.repo_id,
                    revision=name,
                    path=revision.snapshot_path,
                    nbytes=revision.size_on_disk,
                    layout=layout,
                    is_complete=cached_folder(Repo(repo.repo_id, name)) is not None,
                )
            )
    return sorted(models, key=lambda model: (model.repo.lower(), model.revision))


def cached_path(model: str | Path) -> Path:
    """The local folder of a MODEL. Raises: ModelNotFoundError: it is not in the cache."""
    where = locate(model)
    if isinstance(where, Path):
        return where
    folder = cached_folder(where) or cached_folder(where, weights_alone=True)
    if folder is None:
        raise ModelNotFoundError(f"{where} is not in the cache; `models pull {model}` fetches it")
    return folder


def remove(model: str) -> int:
    """Deletes a repository, or one revision where one is named, from the cache.

    Returns the bytes freed. Raises: ModelNotFoundError: it is not there, or is a local folder.
    """
    where = locate(model)
    if isinstance(where, Path):
        raise ModelNotFoundError(f"{where} is no part of the cache; delete it yourself")
    try:
        cache = huggingface_hub.scan_cache_dir(constants.HF_HUB_CACHE)
    except CacheNotFound:
        raise ModelNotFoundError(f"{where} is not in the cache") from None
    commits = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_type == "model" and _is_repo(repo.repo_path, repo.repo_id, where.id)
        for revision in repo.revisions
        if "@" not in model or where.revision in (revision.commit_hash, *revision.refs)
    ]
    if not commits:
        raise ModelNotFoundError(f"{where} is not in the cache")
    deletion = cache.delete_revisions(*commits)
    deletion.execute()
    return int(deletion.expected_freed_size)


def _is_repo(folder: Path, repo_id: str, given_id: str) -> bool:
    """Return whether a folder of the cache is that of a repository's name.

    A Mac's disk ignores upper and lower case, so another spelling finds the model: it must be the
    same model that is removed. On other disks two spellings are two folders.
    """
    expected = folder.parent / repo_folder_name(repo_id=given_id, repo_type="model")
    try:
        return repo_id == given_id or os.path.samefile(folder, expected)
    except OSError:
        return False


def _layout(folder: Path) -> Layout | None:
    """The layout of a supported model; None for anything else."""
    for name, read in (
        (HF_CONFIG, ModelConfig.from_hf),
        (OFFICIAL_CONFIG, ModelConfig.from_params),
    ):
        if (folder / name).exists():
            try:
                config = read(read_json(folder / name))
            except (CheckpointError, ConfigError):
                continue
            if name == OFFICIAL_CONFIG:
                return "official"
            return "mlx" if config.quantization else "hf"
    return None
