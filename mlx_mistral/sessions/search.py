"""Search in the text of all messages: by words where SQLite has FTS5, else by parts of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .database import Database
from .plain_text import Snippet, snippet, storable, words_of
from .schema import INDEX, INDEX_TABLE, INDEX_TRIGGERS

MAX_QUERY = 500
"""Characters of a query that count; what follows them is left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A message that a search found."""

    session: int
    title: str
    """Of the session."""
    message: int
    role: str
    created: float
    snippet: Snippet


def has_full_text(database: Database) -> bool:
    """Whether this SQLite has FTS5."""
    return bool(database.rows("SELECT 1 FROM pragma_module_list WHERE name = 'fts5'"))


def set_index(database: Database, *, full_text: bool) -> None:
    """Makes the index that triggers keep, or drops the triggers, without which it is stale.

    A file may be used by Pythons with and without FTS5 in turn. One without it could not write
    while the triggers are there; one with it that finds them missing makes the index anew.
    """
    if _has_triggers(database) == full_text:
        return
    with database.write() as connection:
        for trigger in INDEX_TRIGGERS:
            connection.execute(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in INDEX if full_text else ():
            connection.execute(statement)


def search(database: Database, query: str, limit: int, *, full_text: bool) -> list[Hit]:
    """Messages of sessions that are not deleted, the newest first.

    With full text those in which, for each word of the query, a word begins with it, whatever
    case and accents. Where there are none, or without full text, those that contain each part of
    the query between spaces, whatever the case of its ASCII letters.
    """
    query = storable(query[:MAX_QUERY])
    parts, words = query.split(), words_of(query)
    if full_text and words:
        found = f"messages.id IN (SELECT rowid FROM {INDEX_TABLE} WHERE {INDEX_TABLE} MATCH ?)"
        matching = " AND ".join(f'"{word}"*' for word in words)
        if hits := _select(database, found, (matching,), words, limit, at_word_begin=True):
            return hits
    if not parts:
        return []
    found = " AND ".join(["content LIKE ? ESCAPE '\\'"] * len(parts))
    patterns = [f"%{_literal(part)}%" for part in parts]
    return _select(database, found, patterns, parts, limit, at_word_begin=False)


def _select(
    database: Database,
    found: str,
    values: Sequence[str],
    needles: Sequence[str],
    limit: int,
    *,
    at_word_begin: bool,
) -> list[Hit]:
    rows = database.rows(
        "SELECT session, title, messages.id, role, messages.created, content "
        "FROM messages JOIN sessions ON sessions.id = session "
        f"WHERE deleted IS NULL AND {found} ORDER BY messages.id DESC LIMIT ?",
        *values,
        limit,
    )
    return [
        Hit(
            session=session,
            title=title,
            message=message,
            role=role,
            created=created,
            snippet=snippet(content, needles, at_word_begin=at_word_begin),
        )
        for session, title, message, role, created, content in rows
    ]


def _has_triggers(database: Database) -> bool:
    rows = database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")
    return set(INDEX_TRIGGERS) <= {name for (name,) in rows}


def _literal(part: str) -> str:
    for char in "\\%_":
        part = part.replace(char, f"\\{char}")
    return part
