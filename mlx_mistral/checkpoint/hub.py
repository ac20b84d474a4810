"""Models from the Hugging Face Hub: one layout of each; whole files are never fetched again."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from mlx_mistral.errors import CheckpointError, ModelNotFoundError

from .hub_cache import BESIDE_WEIGHTS, cached_folder
from .hub_download import Report, Silent, fetch
from .layouts import FileSet, layouts
from .model_name import Repo

_TRANSPORT_ERRORS: tuple[type[Any], ...] = HfHubHTTPError.__bases__
"""The base error of the HTTP client that the Hub library uses (it has changed), and OSError."""


def resolve_repo(repo: Repo, *, progress: bool = True, report: Report | None = None) -> Path:
    """The folder of a repository, from the Hub's cache or downloaded; see `resolve`."""
    folder = cached_folder(repo)
    if folder is not None:
        return folder
    try:
        return download(repo, progress=progress, report=report)
    except CheckpointError:
        # Without a connection, a model that only lacks a licence text is better than none.
        folder = cached_folder(repo, weights_alone=True)
        if folder is None:
            raise
        return folder


def download(repo: Repo, *, progress: bool = True, report: Report | None = None) -> Path:
    """Fetches one layout of a repository, or what is missing of it, into the Hub's cache.

    Arguments as in `resolve`. Raises: as `resolve`.
    """
    with told_plainly(repo):
        info = huggingface_hub.HfApi().model_info(
            repo.id, revision=repo.revision, files_metadata=True
        )
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        files = choose_layout(repo, sizes)
        _check_disk(repo, sum(sizes[name] for name in files.weights))
        patterns = [*files.names, *BESIDE_WEIGHTS]
        if report is not None:
            return fetch(repo, info.sha or repo.revision, sizes, patterns, report)
        return Path(
            huggingface_hub.snapshot_download(
                repo.id,
                revision=repo.revision,
                allow_patterns=patterns,
                tqdm_class=None if progress else Silent,
            )
        )


def choose_layout(repo: Repo, names: Collection[str]) -> FileSet:
    """The files to fetch of what a repository lists. Raises: CheckpointError: no model there."""
    found = layouts(names)
    if not found or found[0].config not in names:
        raise CheckpointError(
            f"{repo} holds no model that is read here (model*.safetensors with config.json, or "
            "consolidated.* with params.json); choose another repository"
        )
    return found[0].without_pickles()


@contextmanager
def told_plainly(repo: Repo) -> Iterator[None]:
    """Turns what can go wrong with the Hub into one line that says what to do."""
    page = f"{constants.ENDPOINT}/{repo.id}"
    try:
        yield
    except GatedRepoError:
        raise CheckpointError(
            f"{repo} is gated: accept its licence at {page}, then run `hf auth login` "
            "or set HF_TOKEN"
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFoundError(
            f"{repo.id} has no revision {repo.revision!r}; see the branches and tags at {page}"
        ) from None
    except RepositoryNotFoundError:
        raise ModelNotFoundError(
            f"{repo.id} is not on the Hub, or it is private; check the name, or run `hf auth login`"
        ) from None
    except OfflineModeIsEnabled:
        raise ModelNotFoundError(
            f"{repo} is not complete in the cache and HF_HUB_OFFLINE is set; unset it to download"
        ) from None
    except LocalEntryNotFoundError:
        raise CheckpointError(_unreachable(repo)) from None
    except _TRANSPORT_ERRORS as error:
        raise CheckpointError(_explain(repo, error)) from None


def _explain(repo: Repo, error: Any) -> str:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full, downloading {repo} to {constants.HF_HUB_CACHE}; free some space"
    response = getattr(error, "response", None)
    if response is not None:
        return f"the Hub answered {response.status_code} for {repo}; try again later"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}; the cache must be writable (HF_HOME moves it)"
    return _unreachable(repo)


def _unreachable(repo: Repo) -> str:
    return (
        f"{repo} is not complete in the cache and {constants.ENDPOINT} cannot be reached; "
        "check the connection and try again, finished files are kept"
    )


def _check_disk(repo: Repo, needed_bytes: int) -> None:
    """Before hours of download. What is there already counts as if it were not."""
    cache = Path(constants.HF_HUB_CACHE)
    if any((cache / f"models--{repo.id.replace('/', '--')}" / "blobs").glob("*")):
        return
    cache.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(cache).free
    if needed_bytes > free_bytes:
        raise CheckpointError(
            f"{repo} takes {needed_bytes / 1e9:.1f} GB, {cache} has {free_bytes / 1e9:.1f} GB "
            "free; make room, or set HF_HOME to another disk"
        )
