"""Several windows on one file, and one that dies."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Message, Store, Tree
from mlx_mistral.sessions import database as database_module


def say(store: Store, session: int, content: str, role: str = "user") -> Message:
    """Adds a message where the session is being read."""
    return store.add(session, store.tree(session).leaf, role, content)


def test_two_windows_see_what_the_other_writes(store: Store, other: Store) -> None:
    session = store.create().id
    first = store.add(session, None, "user", "one")
    there = other.add(session, first.id, "user", "two, there")
    here = store.add(session, first.id, "user", "two, here")
    assert store.tree(session) == other.tree(session)
    assert [m.content for m in store.tree(session).path()] == ["one", "two, here"]
    assert store.tree(session).siblings(here.id) == (there, here)
    other.remove(session, first.id)
    with pytest.raises(SessionError, match="reopen the conversation"):
        store.add(session, here.id, "user", "three")
    assert store.tree(session) == Tree()


def test_a_reader_sees_all_of_a_change_or_nothing(store: Store, other: Store) -> None:
    session = store.create().id

    def half() -> None:
        with store._database.write() as connection:
            connection.execute("UPDATE sessions SET title = 'half'")
            assert other.session(session).title == ""
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        half()
    assert store.session(session).title == other.session(session).title == ""


def test_writing_in_what_another_window_deleted_brings_it_back(store: Store, other: Store) -> None:
    session = store.create().id
    say(store, session, "one")
    other.delete(session)
    say(store, session, "two")
    assert [s.n_messages for s in other.sessions()] == [2]


def test_a_reply_that_another_window_deleted_ends_in_one_line(store: Store, other: Store) -> None:
    session = store.create().id
    question = say(store, session, "one")
    reply = store.add(session, question.id, "assistant", "", complete=False)
    other.remove(session, question.id)
    for write in (
        lambda: store.append(reply.id, "text"),
        lambda: store.complete(reply.id, "text", None),
    ):
        with pytest.raises(SessionError, match="no longer there"):
            write()


def test_a_file_that_stays_locked_is_told_in_one_line(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_SECONDS", 0.01)
    with Store(path) as store:
        locker = sqlite3.connect(path, isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionError, match="locked") as raised:
            store.create()
        assert "\n" not in str(raised.value)
        assert store.sessions() == []  # reading goes on
        locker.execute("COMMIT")
        locker.close()
        store.create()


def test_a_writer_waits_for_another(store: Store, path: Path) -> None:
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.05, lambda: locker.execute("COMMIT"))
    timer.start()
    store.create()
    timer.join()
    locker.close()
    assert len(store.sessions()) == 1


def test_threads_of_one_window_take_turns(store: Store) -> None:
    session = store.create().id

    def write() -> None:
        for n in range(20):
            store.add(session, None, "user", f"word{n}")

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.session(session).n_messages == 60


WRITER = """
import sys
from pathlib import Path
from mlx_mistral.sessions import Store

store = Store(Path(sys.argv[1]))
session = store.create().id
question = store.add(session, None, "user", "Tell me.")
reply = store.add(session, question.id, "assistant", "", complete=False)
for n in range(20):
    store.append(reply.id, f"{n} ")
print("said", flush=True)
sys.stdin.read()
"""


def test_what_was_written_outlives_a_window_that_is_killed(path: Path) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdin is not None
    assert writer.stdout.readline() == "said\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdin.close()
    writer.stdout.close()
    with Store(path) as store:
        last = store.last()
        assert last is not None
        question, reply = store.tree(last.id).path()
        assert (question.content, last.title) == ("Tell me.", "Tell me.")
        assert reply.content.split() == [str(n) for n in range(20)]
        assert not reply.complete
        say(store, last.id, "Go on.")
        assert store.session(last.id).n_messages == 3


OPENER = """
import sys
from pathlib import Path
from mlx_mistral.sessions import Store

store = Store(Path(sys.argv[1]))
session, leaf = store.create().id, None
for n in range(20):
    leaf = store.add(session, leaf, "user", f"word{n}").id
"""


def test_windows_that_open_a_new_file_at_once_all_write(path: Path) -> None:
    openers = [subprocess.Popen([sys.executable, "-c", OPENER, str(path)]) for _ in range(3)]
    assert [opener.wait() for opener in openers] == [0, 0, 0]
    with Store(path) as store:
        assert [len(store.tree(s.id).path()) for s in store.sessions()] == [20, 20, 20]
        assert len(store.search("word19")) == 3
