"""From any earlier version of the file to the newest, in one transaction or not at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from mlx_mistral.errors import SessionError

from .schema import APPLICATION_ID, TABLES, TOKENS

STEPS: Sequence[Sequence[str]] = (TABLES, TOKENS)
"""The statements that lead from version n to n + 1, at position n. Steps are never changed."""


def check(connection: sqlite3.Connection, path: Path, newest: int = len(STEPS)) -> int:
    """The version of a file, 0 of an empty one. Writes nothing.

    Raises: SessionError: the file is newer than this program, or another program's.
    """
    version, owner, n_objects = connection.execute(
        "SELECT (SELECT user_version FROM pragma_user_version), "
        "(SELECT application_id FROM pragma_application_id), "
        "(SELECT count(*) FROM sqlite_master)"
    ).fetchone()
    empty = version == owner == n_objects == 0
    if owner != APPLICATION_ID and not empty:
        raise SessionError(
            f"{path} is a database of another program; "
            "move it away or set MLX_MISTRAL_HOME to another folder"
        )
    if version > newest:
        raise SessionError(
            f"{path} was written by a newer mlx-mistral (version {version} of the file, this one "
            f"knows {newest}); update mlx-mistral or set MLX_MISTRAL_HOME to another folder"
        )
    return int(version)


def migrate(
    connection: sqlite3.Connection, path: Path, steps: Sequence[Sequence[str]] = STEPS
) -> None:
    """Brings a file to the version that `steps` lead to; leaves it as it was if one fails.

    `connection` is in autocommit mode; `path` is only named in errors.
    Raises: SessionError: as `check`. sqlite3.Error: a step failed.
    """
    if check(connection, path, len(steps)) == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = check(connection, path, len(steps))  # another process may have been faster
        for step in steps[version:]:
            for statement in step:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(steps)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
