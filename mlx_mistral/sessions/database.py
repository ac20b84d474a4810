"""The SQLite file itself: opened for several processes at once, its errors told in one line."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import RLock
from typing import Any

from mlx_mistral.errors import SessionError

from .migrations import check, migrate

BUSY_SECONDS = 5.0
"""How long to wait while another process writes."""


class Database:
    """A connection to the file, of the newest version. Threads take turns.

    Readable by its owner alone. With a write-ahead log, readers and a writer do not wait for each
    other, and what was committed outlives the death of the process.
    Raises: SessionError: it cannot be opened, or is newer than this program or another's.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._turn = RLock()
        with self._told():
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                check(self._connection, path)
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = NORMAL")
                self._connection.execute("PRAGMA foreign_keys = ON")
                migrate(self._connection, path)
            except BaseException:
                self._connection.close()
                raise

    def close(self) -> None:
        """May be called twice."""
        with self._turn, self._told():
            self._connection.close()

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a query. Raises: SessionError: the file cannot be read."""
        with (
            self._turn,
            self._told(),
            closing(self._connection.execute(statement, values)) as cursor,
        ):
            return cursor.fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of what is executed in it is kept, or nothing.

        Raises: SessionError: the file cannot be written.
        """
        with self._turn, self._told():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise SessionError(
                f"{self.path}: the conversation, or the message that this one follows, is no "
                "longer there; reopen the conversation"
            ) from None
        except sqlite3.Error as error:
            raise SessionError(
                f"{self.path}: {error}; free or repair the file, or set MLX_MISTRAL_HOME to "
                "another folder"
            ) from error
        except OSError as error:
            raise SessionError(
                f"{self.path} cannot be opened: {error.strerror}; "
                "set MLX_MISTRAL_HOME to a folder that can be written"
            ) from None
