"""All conversations of a person, in one SQLite file that several windows use at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from mlx_mistral.errors import SessionError
from mlx_mistral.files.home import home

from . import rows
from .codec import Setting, settings_of, statistics_json, to_json, token_ids_blob
from .database import Database
from .places import DATABASE
from .plain_text import storable, title_of
from .rows import Session
from .search import Hit, has_full_text, search, set_index
from .tree import ROLES, Message, Statistics, Tree

KEPT_SECONDS = 30 * 24 * 3600.0
"""How long a deleted session can be brought back."""

_NEWEST_FIRST = "ORDER BY updated DESC, id DESC"


class Store:
    """Sessions and their messages. Each window has its own, whose threads take turns.

    Every method that writes has it on disk when it returns. Any raises SessionError where the
    file cannot be read or written.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        clock: Callable[[], float] = time.time,
        full_text: bool | None = None,
    ) -> None:
        """Opens or makes the file, and forgets what was deleted long ago.

        full_text: whether to use FTS5; None: where SQLite has it.
        """
        self.path = path or home() / DATABASE
        self._clock = clock
        self._database = Database(self.path)
        self.full_text = has_full_text(self._database) if full_text is None else full_text
        set_index(self._database, full_text=self.full_text)
        self.purge(KEPT_SECONDS)

    def close(self) -> None:
        """May be called twice."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def create(
        self, *, title: str = "", model: str = "", settings: Mapping[str, Setting] | None = None
    ) -> Session:
        """A session without messages."""
        now = self._clock()
        with self._database.write() as connection:
            id = connection.execute(
                "INSERT INTO sessions (title, model, settings, created, updated) "
                "VALUES (?, ?, ?, ?, ?)",
                (storable(title), storable(model), _kept(settings or {}), now, now),
            ).lastrowid
        return self.session(id or 0)

    def session(self, id: int) -> Session:
        """Raises: SessionError: there is no such session; one that was deleted is there."""
        for row in self._database.rows(f"{rows.SESSION} WHERE id = ?", id):
            return rows.session(row, self.path)
        raise SessionError(f"{self.path}: there is no conversation {id}; list those that are there")

    def sessions(self, limit: int = -1) -> list[Session]:
        """Those that are not deleted, the last used first; `limit` below 0: all."""
        return self._sessions(f"WHERE deleted IS NULL {_NEWEST_FIRST} LIMIT ?", limit)

    def deleted(self) -> list[Session]:
        """Those that can be brought back, the last deleted first."""
        return self._sessions("WHERE deleted IS NOT NULL ORDER BY deleted DESC, id DESC")

    def last(self) -> Session | None:
        """The last used one that has messages and is not deleted."""
        found = self._sessions(
            "WHERE deleted IS NULL AND EXISTS "
            f"(SELECT 1 FROM messages WHERE session = sessions.id) {_NEWEST_FIRST} LIMIT 1"
        )
        return found[0] if found else None

    def rename(self, id: int, title: str) -> Session:
        """Empty: the next message of the user gives it a title."""
        return self._change(id, "title = ?", storable(title))

    def configure(self, id: int, *, model: str, settings: Mapping[str, Setting]) -> Session:
        """With another model or other settings."""
        return self._change(id, "model = ?, settings = ?", storable(model), _kept(settings))

    def delete(self, id: int) -> Session:
        """Takes a session out of lists and searches; `restore` brings it back."""
        return self._change(id, "deleted = ?", self._clock())

    def restore(self, id: int) -> Session:
        """Undoes `delete`."""
        return self._change(id, "deleted = NULL")

    def purge(self, older_than_seconds: float = 0.0) -> int:
        """Forgets for good what was deleted that long ago or longer. Returns: how many."""
        until = self._clock() - older_than_seconds
        found = "FROM sessions WHERE deleted <= ?"
        if not self._database.rows(f"SELECT 1 {found}", until):
            return 0
        with self._database.write() as connection:
            return connection.execute(f"DELETE {found}", (until,)).rowcount

    def tree(self, id: int) -> Tree:
        """The messages of a session, read where it was read last."""
        session = self.session(id)
        found = self._database.rows(f"{rows.MESSAGE} WHERE session = ? ORDER BY id", id)
        return Tree.of((rows.message(row, self.path) for row in found), session.leaf)

    def message(self, id: int) -> Message:
        """Raises: SessionError: there is no such message."""
        for row in self._database.rows(f"{rows.MESSAGE} WHERE id = ?", id):
            return rows.message(row, self.path)
        raise self._gone(id)

    def add(
        self,
        session: int,
        parent: int | None,
        role: str,
        content: str,
        *,
        complete: bool = True,
    ) -> Message:
        """A new message, at which the session is then read.

        A first message of the user becomes the title. A session that another window has deleted
        comes back, since nothing that was written may be lost.
        Raises: SessionError: session or parent are not there.
        """
        if role not in ROLES:
            raise SessionError(f"{role!r} is no role; use {', '.join(ROLES)}")
        now, content = self._clock(), storable(content)
        title = title_of(content) if role == "user" else ""
        with self._database.write() as connection:
            id = connection.execute(
                "INSERT INTO messages (session, parent, role, content, created, complete) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (session, parent, role, content, now, complete),
            ).lastrowid
            connection.execute(
                "UPDATE sessions SET leaf = ?, updated = ?, deleted = NULL, "
                "title = CASE title WHEN '' THEN ? ELSE title END WHERE id = ?",
                (id, now, title, session),
            )
        return Message(
            id=id or 0, parent=parent, role=role, content=content, created=now, complete=complete
        )

    def append(self, message: int, text: str) -> None:
        """Lengthens a message. Raises: SessionError: it is not there."""
        with self._database.write() as connection:
            done = connection.execute(
                "UPDATE messages SET content = content || ? WHERE id = ?", (storable(text), message)
            )
            if not done.rowcount:
                raise self._gone(message)

    def complete(
        self,
        message: int,
        text: str,
        statistics: Statistics | None,
        token_ids: Sequence[int] = (),
    ) -> Message:
        """Appends the rest of a reply and marks it as complete; `token_ids` are of all of it.

        Raises: SessionError: it is not there.
        """
        with self._database.write() as connection:
            row = connection.execute(
                "UPDATE messages SET content = content || ?, complete = 1, statistics = ?, "
                "token_ids = ? WHERE id = ? RETURNING session",
                (
                    storable(text),
                    statistics_json(statistics),
                    token_ids_blob(token_ids),
                    message,
                ),
            ).fetchall()
            if not row:
                raise self._gone(message)
            connection.execute(
                "UPDATE sessions SET updated = ? WHERE id = ?", (self._clock(), row[0][0])
            )
        return self.message(message)

    def read_at(self, session: int, leaf: int | None) -> Session:
        """Keeps where a session is being read."""
        return self._change(session, "leaf = ?", leaf)

    def remove(self, session: int, message: int) -> None:
        """Deletes a message and all that follow it, for good."""
        with self._database.write() as connection:
            connection.execute(
                "WITH RECURSIVE below (id) AS (SELECT id FROM messages WHERE session = ?1 "
                "AND id = ?2 UNION SELECT messages.id FROM messages JOIN below "
                "ON messages.parent = below.id WHERE session = ?1) "
                "DELETE FROM messages WHERE id IN below",
                (session, message),
            )

    def search(self, query: str, limit: int = 50) -> list[Hit]:
        """See `search.search`."""
        return search(self._database, query, limit, full_text=self.full_text)

    def insert(self, session: Session, tree: Tree) -> Session:
        """A copy of a session, from a file or from here, under new ids."""
        with self._database.write() as connection:
            copy = connection.execute(
                "INSERT INTO sessions (title, model, settings, created, updated) "
                "VALUES (?, ?, ?, ?, ?)",
                (
                    session.title,
                    session.model,
                    _kept(session.settings),
                    session.created,
                    session.updated,
                ),
            ).lastrowid
            ids: dict[int | None, int | None] = {None: None}
            for _, message in sorted(tree.messages.items()):
                ids[message.id] = connection.execute(
                    "INSERT INTO messages "
                    "(session, parent, role, content, created, complete, statistics, token_ids) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        copy,
                        ids[message.parent],
                        message.role,
                        message.content,
                        message.created,
                        message.complete,
                        statistics_json(message.statistics),
                        token_ids_blob(message.token_ids),
                    ),
                ).lastrowid
            connection.execute("UPDATE sessions SET leaf = ? WHERE id = ?", (ids[tree.leaf], copy))
        return self.session(copy or 0)

    def _change(self, id: int, assignments: str, *values: object) -> Session:
        with self._database.write() as connection:
            connection.execute(f"UPDATE sessions SET {assignments} WHERE id = ?", (*values, id))
        return self.session(id)

    def _sessions(self, which: str, *values: object) -> list[Session]:
        return [
            rows.session(row, self.path)
            for row in self._database.rows(f"{rows.SESSION} {which}", *values)
        ]

    def _gone(self, message: int) -> SessionError:
        return SessionError(
            f"{self.path}: message {message} is no longer there; reopen the conversation"
        )


def _kept(settings: Mapping[str, Setting]) -> str:
    """What is written can be read again: one session that cannot would spoil the list of all."""
    whole = {
        storable(key): storable(value) if isinstance(value, str) else value
        for key, value in settings.items()
    }
    return to_json(settings_of(whole, "settings"))
