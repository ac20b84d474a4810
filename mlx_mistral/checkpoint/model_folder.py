"""MODEL becomes a folder. The Hub's library is loaded for what may lie there alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .model_name import locate

if TYPE_CHECKING:
    from .hub_download import Report


def resolve(
    model: str | Path,
    *,
    revision: str | None = None,
    progress: bool = True,
    report: Report | None = None,
) -> Path:
    """The folder of a MODEL: a folder, a repo id `org/name[@revision]`, an alias, or `demo`.

    A repository that is complete in the Hub's cache is taken from there without a request;
    of any other, one layout is downloaded, with progress on stderr.

    report: told the bytes done and in all while downloading, in place of stderr; may end it.
    Raises: ModelNotFoundError: there is no such model. CheckpointError: it is gated, the
        network or the disk is in the way, it holds no layout that we read, or `report` ended it.
    """
    where = locate(model, revision=revision)
    if isinstance(where, Path):
        return where
    from .hub import resolve_repo

    return resolve_repo(where, progress=progress, report=report)
