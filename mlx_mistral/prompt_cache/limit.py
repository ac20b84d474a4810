"""How much of the disk prompt caches may take."""

from __future__ import annotations

import shutil
from pathlib import Path

SHARE = 10
"""One part in so many of what is free, with what they take already."""
AT_MOST = 20_000_000_000


def default_limit_bytes(folder: Path, taken_bytes: int = 0) -> int:
    """A tenth of the disk's free room, at most 20 GB; 0 where the system does not tell.

    taken_bytes: by prompt caches, which count as free.
    """
    there = next((one for one in (folder, *folder.parents) if one.exists()), None)
    try:
        free = shutil.disk_usage(there).free if there else 0
    except OSError:
        return 0
    return min((free + taken_bytes) // SHARE, AT_MOST)
