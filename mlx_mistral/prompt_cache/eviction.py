"""What goes when room is needed, and what nobody knows any more."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from . import index

ORPHAN_SECONDS = 3600.0
"""A file that no index names is left alone for so long: it may be being written."""


def make_room(rows: sqlite3.Connection, limit_bytes: int, newest: int) -> list[str]:
    """Takes out the longest unused entries on which none builds, the newest last of all.

    Returns: their files.
    """
    files: list[str] = []
    while index.total_bytes(rows) > limit_bytes:
        row = rows.execute(
            "SELECT id FROM entries AS one WHERE NOT EXISTS "
            "(SELECT 1 FROM entries WHERE base = one.id) ORDER BY id = ?, used LIMIT 1",
            (newest,),
        ).fetchone()
        files += index.remove(rows, row[0])
    return files


def sweep(folder: Path, known: set[str]) -> None:
    """Deletes what a process that died left half written or unnamed."""
    for path in folder.glob("*.safetensors"):
        try:
            if path.name not in known and time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink(missing_ok=True)
        except OSError:
            continue
