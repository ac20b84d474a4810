"""From any version to the newest, or nothing at all."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Store
from mlx_mistral.sessions.migrations import STEPS, migrate

LATER = (
    *STEPS,
    (
        "ALTER TABLE sessions ADD COLUMN color TEXT NOT NULL DEFAULT 'red'",
        "UPDATE sessions SET title = upper(title)",
    ),
    ("CREATE TABLE more (id INTEGER PRIMARY KEY)",),
)


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


@pytest.fixture
def old(path: Path) -> Iterator[sqlite3.Connection]:
    """A file of this version, with a session in it."""
    with Store(path) as store:
        store.create(title="a")
    connection = connect(path)
    yield connection
    connection.close()


def shape(connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    objects = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
    return [*objects, *connection.execute("PRAGMA user_version")]


def test_steps_run_once_and_in_order(old: sqlite3.Connection, path: Path) -> None:
    for _ in range(2):
        migrate(old, path, LATER)
        assert old.execute("SELECT title, color FROM sessions").fetchall() == [("A", "red")]
        assert old.execute("PRAGMA user_version").fetchone() == (len(LATER),)


def test_an_old_file_ends_up_like_a_new_one(old: sqlite3.Connection, path: Path) -> None:
    migrate(old, path, LATER)
    new = connect(path.with_name("new.sqlite3"))
    migrate(new, path, LATER)
    ours = {row for row in shape(old) if "words" not in str(row[0])}
    assert set(shape(new)) <= ours
    new.close()


def test_a_file_without_token_ids_goes_on_with_them(path: Path) -> None:
    path.parent.mkdir()
    first = connect(path)
    migrate(first, path, STEPS[:1])
    first.execute("INSERT INTO sessions VALUES (1, 'a', 'demo', '{}', 1, 1, NULL, 2)")
    first.execute("INSERT INTO messages VALUES (1, 1, NULL, 'user', 'Hi', 1, 1, NULL)")
    kept = (
        '{"tokens": 1, "seconds": 1.0, "tps": 1, "first_token_seconds": null, '
        '"reason": "stop", "model": "demo"}'
    )
    first.execute("INSERT INTO messages VALUES (2, 1, 1, 'assistant', 'Yes', 1, 1, ?)", (kept,))
    first.close()
    with Store(path) as store:
        question, answer = store.tree(1).path()
        assert (question.content, answer.content, answer.token_ids) == ("Hi", "Yes", ())
        assert answer.statistics is not None
        assert answer.statistics.reused_tokens is None
        reply = store.add(1, answer.id, "assistant", "", complete=False)
        store.complete(reply.id, "Oh", None, (5, 131_071))
    with Store(path) as store:
        assert store.message(reply.id).token_ids == (5, 131_071)


def test_a_step_that_fails_undoes_those_before_it(old: sqlite3.Connection, path: Path) -> None:
    before = shape(old)
    with pytest.raises(sqlite3.OperationalError):
        migrate(old, path, (*LATER, ("DROP TABLE nothing",)))
    assert shape(old) == before
    assert old.execute("SELECT title FROM sessions").fetchall() == [("a",)]
    assert not old.in_transaction
    migrate(old, path, LATER)


def test_a_newer_file_is_left_alone(old: sqlite3.Connection, path: Path) -> None:
    migrate(old, path, LATER)
    old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    before = path.read_bytes()
    with pytest.raises(SessionError, match="newer mlx-mistral") as raised:
        Store(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before


def test_another_programs_file_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    theirs = connect(path)
    theirs.execute("CREATE TABLE sessions (id)")
    theirs.close()
    before = path.read_bytes()
    with pytest.raises(SessionError, match="another program"):
        Store(path)
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_another_programs_empty_file_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    theirs = connect(path)
    theirs.execute("PRAGMA application_id = 7")
    theirs.close()
    with pytest.raises(SessionError, match="another program"):
        Store(path)


def test_a_file_that_another_process_has_just_migrated_is_not_migrated_again(
    old: sqlite3.Connection, path: Path
) -> None:
    """The version is looked at again once no one else can write."""

    class Slow(sqlite3.Connection):
        def execute(self, sql: str, *args: object) -> sqlite3.Cursor:  # type: ignore[override]
            if sql == "BEGIN IMMEDIATE":
                migrate(old, path, LATER)
            return super().execute(sql, *args)  # type: ignore[arg-type]

    late = sqlite3.connect(path, isolation_level=None, factory=Slow)
    migrate(late, path, LATER)
    assert late.execute("SELECT title FROM sessions").fetchall() == [("A",)]
    late.close()


def test_foreign_keys_and_the_log_are_on(path: Path) -> None:
    with Store(path) as store:
        assert store._database.rows("PRAGMA foreign_keys") == [(1,)]
        assert store._database.rows("PRAGMA journal_mode") == [("wal",)]
        assert store._database.rows("PRAGMA foreign_key_check") == []
