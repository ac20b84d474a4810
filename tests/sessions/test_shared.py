"""Several windows on one file, and one that dies."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sessions.clock import Clock

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Conversation, Store, Tree
from mlx_mistral.sessions import database as database_module


def test_two_windows_see_what_the_other_writes(store: Store, other: Store) -> None:
    mine = Conversation(store)
    first = mine.say("one")
    assert mine.session is not None
    theirs = Conversation.open(other, mine.session.id)
    theirs.say("two, there")
    mine.say("two, here")
    assert [m.content for m in mine.tree.path()] == ["one", "two, here"]
    mine.reload()
    assert mine.tree.messages == other.tree(mine.session.id).messages
    assert [m.content for m in mine.tree.path()] == ["one", "two, here"]
    assert len(mine.tree.siblings(mine.tree.leaf or 0)) == 2
    theirs.delete(first.id)
    with pytest.raises(SessionError, match="reopen the conversation"):
        mine.say("three")
    mine.reload()
    assert mine.tree == Tree()


def test_a_window_stays_where_it_reads(store: Store, other: Store) -> None:
    mine = Conversation(store)
    mine.say("one")
    mine.say("two, here")
    assert mine.session is not None
    theirs = Conversation.open(other, mine.session.id)
    theirs.edit(theirs.tree.leaf or 0, "two, there")
    mine.reload()
    assert [m.content for m in mine.tree.path()] == ["one", "two, here"]
    assert len(mine.tree) == 3


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
    conversation = Conversation(store)
    conversation.say("one")
    assert conversation.session is not None
    other.delete(conversation.session.id)
    conversation.say("two")
    assert [s.n_messages for s in other.sessions()] == [2]


def test_a_reply_that_another_window_deleted_ends_in_one_line(store: Store, other: Store) -> None:
    conversation = Conversation(store)
    question = conversation.say("one")
    draft = conversation.reply()
    assert conversation.session is not None
    other.remove(conversation.session.id, question.id)
    draft.append("text")
    with pytest.raises(SessionError, match="no longer there"):
        draft.flush()


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


WRITER = """
import sys
from pathlib import Path
from mlx_mistral.sessions import Conversation, Store

conversation = Conversation(Store(Path(sys.argv[1])))
conversation.say("Tell me.")
now = [0.0]
draft = conversation.reply(clock=lambda: now[0])
for second in range(5):
    for tenth in range(10):
        draft.append(f"{second}.{tenth} ")
        now[0] += 0.1 + 1e-9
draft.append("5.0 ")
draft.append("5.1 ")
print("said", flush=True)
sys.stdin.read()
"""


def test_a_killed_window_loses_at_most_the_last_second(path: Path, clock: Clock) -> None:
    """Five seconds and two tenths of a reply, by the writer's clock; then SIGKILL."""
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

    said = [f"{second}.{tenth}" for second in range(5) for tenth in range(10)] + ["5.0", "5.1"]
    with Store(path) as store:
        last = store.last()
        assert last is not None
        question, reply = store.tree(last.id).path()
        assert (question.content, last.title) == ("Tell me.", "Tell me.")
        kept = reply.content.split()
        assert kept == said[: len(kept)]
        assert len(said) - len(kept) <= 10
        assert not reply.complete
        Conversation.open(store, last.id).say("Go on.")
        assert store.session(last.id).n_messages == 3


OPENER = """
import sys
from pathlib import Path
from mlx_mistral.sessions import Conversation, Store

conversation = Conversation(Store(Path(sys.argv[1])))
for n in range(20):
    conversation.say(f"word{n}")
"""


def test_windows_that_open_a_new_file_at_once_all_write(path: Path) -> None:
    openers = [subprocess.Popen([sys.executable, "-c", OPENER, str(path)]) for _ in range(3)]
    assert [opener.wait() for opener in openers] == [0, 0, 0]
    with Store(path) as store:
        assert [len(store.tree(s.id).path()) for s in store.sessions()] == [20, 20, 20]
        assert len(store.search("word19")) == 3
