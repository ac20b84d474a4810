"""Which texts are on disk: a table in SQLite that several processes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from mlx_mistral.errors import CacheError

from .entry import COLUMNS, Entry, from_row

BUSY_SECONDS = 5.0
VERSION = 1
_TABLE = """
    CREATE TABLE entries (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,
        base INTEGER REFERENCES entries (id) ON DELETE CASCADE,
        start INTEGER NOT NULL,
        ids BLOB NOT NULL,
        whole INTEGER NOT NULL,
        file TEXT NOT NULL UNIQUE,
        nbytes INTEGER NOT NULL,
        digest BLOB NOT NULL,
        used REAL NOT NULL
    )
"""


class Index:
    """One connection an operation, so that any thread may use it.

    A file that is no database is put aside: what it told is lost, and is only a cache.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def open(self) -> Iterator[sqlite3.Connection]:
        """A transaction, for this process alone. Raises: CacheError: the file refuses."""
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA user_version").fetchone() != (VERSION,):
                    connection.execute("DROP TABLE IF EXISTS entries")
                    connection.execute(_TABLE)
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                yield connection
        except sqlite3.OperationalError as error:
            raise CacheError(f"{self.path}: {error}; check the folder and the disk") from error
        except sqlite3.DatabaseError as error:
            for end in ("", "-journal"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            raise CacheError(
                f"{self.path} was damaged ({error}); the prompt caches begin anew"
            ) from error
        except OSError as error:
            raise CacheError(f"{self.path}: {error.strerror}; check the folder") from error

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.execute("PRAGMA foreign_keys = ON")
        # What a loss of power spoils is found damaged and made anew.
        connection.execute("PRAGMA synchronous = OFF")
        return connection


def entries(connection: sqlite3.Connection, where: str = "1", *values: object) -> list[Entry]:
    """Those of which a condition holds, the least recently used first.

    Raises: CacheError: a row is damaged.
    """
    rows = connection.execute(f"SELECT {COLUMNS} FROM entries WHERE {where} ORDER BY used", values)
    return [from_row(*row) for row in rows]


def chain(connection: sqlite3.Connection, entry: Entry) -> list[Entry]:
    """An entry after all that it builds on, the first of the text first."""
    found = [entry]
    while (base := found[0].base) is not None:
        found[:0] = entries(connection, "id = ?", base)
    return found


def add(connection: sqlite3.Connection, entry: Entry, now: float) -> int:
    """Returns the id that the entry gets; its own does not count."""
    row = connection.execute(
        f"INSERT INTO entries ({COLUMNS.removeprefix('id, ')}, used) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            entry.key,
            entry.base,
            entry.start,
            entry.ids.tobytes(),
            entry.whole,
            entry.file,
            entry.nbytes,
            entry.digest,
            now,
        ),
    )
    return row.lastrowid or 0


def remove(connection: sqlite3.Connection, id: int) -> list[str]:
    """Takes an entry out with all that build on it. Returns: their files."""
    rows = connection.execute(
        "WITH RECURSIVE gone (id) AS (SELECT ? UNION SELECT entries.id FROM entries "
        "JOIN gone ON entries.base = gone.id) SELECT id, file FROM entries WHERE id IN gone",
        (id,),
    ).fetchall()
    connection.execute("DELETE FROM entries WHERE id = ?", (id,))
    return [file for _, file in rows]


def touch(connection: sqlite3.Connection, ids: Sequence[int], now: float) -> None:
    """Marks entries as just used."""
    connection.executemany("UPDATE entries SET used = ? WHERE id = ?", [(now, id) for id in ids])


def has_followers(connection: sqlite3.Connection, id: int, but: int = 0) -> bool:
    """Whether another entry than `but` builds on one."""
    row = connection.execute("SELECT 1 FROM entries WHERE base = ? AND id <> ?", (id, but))
    return row.fetchone() is not None


def total_bytes(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(sum(nbytes), 0) FROM entries").fetchone()[0])
