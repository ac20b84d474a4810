"""The tables that conversations are kept in: as they first were, and what has come to them."""

from __future__ import annotations

APPLICATION_ID = 0x4D4C584D
"""Stands in the header of the file, so that another program's database is told apart."""

TABLES = (
    """
    CREATE TABLE sessions (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        title TEXT NOT NULL,
        model TEXT NOT NULL,
        settings TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        deleted REAL,
        leaf INTEGER
    )
    """,
    "CREATE INDEX sessions_by_time ON sessions (updated DESC, id DESC)",
    # A message is deleted with all that follow it in one statement, not by a cascade from parent
    # to child: SQLite follows a cascade through 1,000 messages at most.
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        session INTEGER NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        parent INTEGER CHECK (parent < id),
        role TEXT NOT NULL CHECK (role IN ('system', 'user', 'assistant')),
        content TEXT NOT NULL,
        created REAL NOT NULL,
        complete INTEGER NOT NULL CHECK (complete IN (0, 1)),
        statistics TEXT,
        UNIQUE (session, id),
        FOREIGN KEY (session, parent) REFERENCES messages (session, id)
    )
    """,
    "CREATE INDEX messages_by_parent ON messages (session, parent)",
)
"""`deleted` is when, or NULL. `leaf` is a hint: where it names no leaf, `Tree.of` finds one.

`settings` and `statistics` are JSON objects. Times are seconds since 1970, UTC.
"""

TOKENS = ("ALTER TABLE messages ADD COLUMN token_ids BLOB",)
"""Of a reply as its model made them, 4 bytes each, the least first; NULL: not known."""

INDEX_TABLE = "message_words"

INDEX = (
    f"""
    CREATE VIRTUAL TABLE IF NOT EXISTS {INDEX_TABLE} USING fts5(
        content, content = 'messages', content_rowid = 'id',
        tokenize = 'unicode61 remove_diacritics 2'
    )
    """,
    f"""
    CREATE TRIGGER words_after_insert AFTER INSERT ON messages BEGIN
        INSERT INTO {INDEX_TABLE} (rowid, content) VALUES (new.id, new.content);
    END
    """,
    f"""
    CREATE TRIGGER words_after_delete AFTER DELETE ON messages BEGIN
        INSERT INTO {INDEX_TABLE} ({INDEX_TABLE}, rowid, content)
        VALUES ('delete', old.id, old.content);
    END
    """,
    f"""
    CREATE TRIGGER words_after_update AFTER UPDATE OF content ON messages BEGIN
        INSERT INTO {INDEX_TABLE} ({INDEX_TABLE}, rowid, content)
        VALUES ('delete', old.id, old.content);
        INSERT INTO {INDEX_TABLE} (rowid, content) VALUES (new.id, new.content);
    END
    """,
    f"INSERT INTO {INDEX_TABLE} ({INDEX_TABLE}) VALUES ('rebuild')",
)
"""Full-text search, where SQLite has FTS5. No part of the schema's version: see `search.py`."""

INDEX_TRIGGERS = ("words_after_insert", "words_after_delete", "words_after_update")
