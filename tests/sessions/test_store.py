"""What is kept is what was said, in the file's own words or in one line of error."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sessions.clock import Clock

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Message, Statistics, Store, Tree
from mlx_mistral.sessions.store import KEPT_SECONDS

STATISTICS = Statistics(
    tokens=3, seconds=1.5, tps=2.0, first_token_seconds=None, reason="stop", model="demo"
)


def reads_as(store: Store, session: int) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in store.tree(session).path()]


def test_what_was_said_is_there_after_reopening(path: Path) -> None:
    with Store(path) as store:
        session = store.create(model="demo", settings={"temperature": 0.5, "seed": None})
        question = store.add(session.id, None, "user", "Bonjour")
        reply = store.add(session.id, question.id, "assistant", "", complete=False)
        store.append(reply.id, "Sal")
        finished = store.complete(reply.id, "ut", STATISTICS, (7, 0, 1 << 31))
    with Store(path) as store:
        kept = store.session(session.id)
        assert (kept.model, kept.settings) == ("demo", {"temperature": 0.5, "seed": None})
        assert (kept.n_messages, kept.leaf) == (2, reply.id)
        tree = store.tree(session.id)
        assert tree == Tree.of([question, finished])
        assert finished.content == "Salut"
        assert finished.complete
        assert finished.statistics == STATISTICS
        assert finished.token_ids == (7, 0, 1 << 31)


def whole(text: str) -> str:
    return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in text)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=()), max_size=60), st.text(max_size=20))
@example("a", "\ud83d")
def test_any_text_is_kept_as_it_is_but_for_halves_of_characters(
    store: Store, content: str, more: str
) -> None:
    session = store.create(title=content)
    message = store.add(session.id, None, "assistant", content)
    store.append(message.id, more)
    assert store.message(message.id).content == whole(content) + whole(more)
    assert store.session(session.id).title == whole(content)


def test_sessions_are_listed_the_last_used_first(store: Store, clock: Clock) -> None:
    first, second, third = (store.create(title=title) for title in ("a", "b", "c"))
    assert [s.title for s in store.sessions()] == ["c", "b", "a"]
    clock.pass_by(1)
    store.add(first.id, None, "user", "x")
    clock.pass_by(1)
    reply = store.add(second.id, None, "assistant", "", complete=False)
    clock.pass_by(1)
    store.rename(third.id, "d")
    assert [(s.title, s.n_messages) for s in store.sessions()] == [("b", 1), ("a", 1), ("d", 0)]
    store.add(first.id, None, "user", "y")
    clock.pass_by(1)
    store.complete(reply.id, "", None)
    assert [s.title for s in store.sessions(limit=1)] == ["b"]


def test_the_last_one_has_messages_and_is_not_deleted(store: Store, clock: Clock) -> None:
    assert store.last() is None
    sessions = [store.create() for _ in range(3)]
    for session in sessions[:2]:
        clock.pass_by(1)
        store.add(session.id, None, "user", "x")
    for session in reversed(sessions[:2]):
        last = store.last()
        assert last is not None
        assert last.id == session.id
        store.delete(last.id)
    assert store.last() is None


def test_the_first_message_of_the_user_gives_the_title(store: Store) -> None:
    session = store.create().id
    first = store.add(session, None, "system", "Be brief.")
    assert store.session(session).title == ""
    second = store.add(session, first.id, "user", "\n  What  is\ta window?\nSay.")
    assert store.session(session).title == "What is a window?"
    store.add(session, second.id, "user", "And this?")
    assert store.session(session).title == "What is a window?"


def test_a_name_stays(store: Store) -> None:
    session = store.create().id
    store.rename(session, "Mine")
    store.add(session, None, "user", "Theirs")
    assert store.session(session).title == "Mine"


def test_model_and_settings_change_together(store: Store) -> None:
    session = store.create(model="a", settings={"seed": 1}).id
    changed = store.configure(session, model="b", settings={"system": "é\n"})
    assert (changed.model, changed.settings) == ("b", {"system": "é\n"})


@pytest.mark.parametrize("value", [float("nan"), 1 << 63, "x" * ((1 << 20) + 1), ["a"]])
def test_settings_that_could_not_be_read_again_are_not_written(store: Store, value: object) -> None:
    session = store.create(settings={"system": "a\ud800"})
    with pytest.raises(SessionError, match="setting 'system'"):
        store.configure(session.id, model="b", settings={"system": value})  # type: ignore[dict-item]
    assert store.sessions() == [session]
    assert session.settings == {"system": "a\ufffd"}


def test_what_was_deleted_comes_back(store: Store) -> None:
    session = store.create(title="a").id
    store.add(session, None, "user", "x")
    store.delete(session)
    assert store.sessions() == []
    assert [s.id for s in store.deleted()] == [session]
    store.restore(session)
    assert store.deleted() == []
    assert reads_as(store, session) == [("user", "x")]


def test_what_was_deleted_is_forgotten_when_asked(store: Store) -> None:
    kept, gone = store.create().id, store.create().id
    message = store.add(gone, None, "user", "words")
    store.delete(gone)
    assert store.purge() == 1
    assert store.purge() == 0
    assert [s.id for s in store.sessions()] == [kept]
    for lost in (lambda: store.session(gone), lambda: store.message(message.id)):
        with pytest.raises(SessionError):
            lost()


def test_what_was_deleted_is_forgotten_after_a_while(path: Path, clock: Clock) -> None:
    with Store(path, clock=clock) as store:
        session = store.create().id
        store.delete(session)
    clock.pass_by(KEPT_SECONDS - 1)
    with Store(path, clock=clock) as store:
        assert [s.id for s in store.deleted()] == [session]
    clock.pass_by(1)
    with Store(path, clock=clock) as store:
        assert store.deleted() == []


def test_a_message_goes_with_all_that_follow_it(store: Store) -> None:
    session = store.create().id
    parent, chain = None, []
    for _ in range(1500):
        parent = store.add(session, parent, "user", "x").id
        chain.append(parent)
    beside = store.add(session, chain[0], "user", "y").id
    store.remove(session, chain[1])
    assert sorted(store.tree(session).messages) == [chain[0], beside]


def test_a_message_of_another_session_stays(store: Store) -> None:
    mine, theirs = store.create().id, store.create().id
    message = store.add(theirs, None, "user", "x")
    store.remove(mine, message.id)
    assert len(store.tree(theirs)) == 1


def test_a_long_session_can_be_forgotten(store: Store) -> None:
    session = store.create().id
    parent = None
    for _ in range(1500):
        parent = store.add(session, parent, "user", "x").id
    store.delete(session)
    assert store.purge() == 1


def test_a_message_follows_one_of_its_own_session(store: Store) -> None:
    mine, theirs = store.create().id, store.create().id
    message = store.add(theirs, None, "user", "x")
    for session, parent in ((mine, message.id), (mine, 99), (99, None)):
        with pytest.raises(SessionError, match="reopen the conversation"):
            store.add(session, parent, "user", "y")
    assert store.session(mine).n_messages == 0
    with pytest.raises(SessionError, match="no role"):
        store.add(mine, None, "tool", "y")


def test_a_message_that_is_gone_cannot_grow(store: Store) -> None:
    with pytest.raises(SessionError, match="message 5 is no longer there"):
        store.append(5, "x")
    with pytest.raises(SessionError, match="message 5 is no longer there"):
        store.complete(5, "x", None)


def test_a_copy_has_new_ids_and_the_same_branches(store: Store, clock: Clock) -> None:
    session = store.create(title="a", settings={"seed": 1})
    first = store.add(session.id, None, "user", "x")
    for text in ("a", "b"):
        store.add(session.id, first.id, "assistant", text)
    session = store.read_at(session.id, first.id + 1)
    clock.pass_by(9)
    copy = store.insert(session, store.tree(session.id))
    assert (copy.title, copy.settings, copy.created) == ("a", {"seed": 1}, session.created)
    assert reads_as(store, copy.id) == [("user", "x"), ("assistant", "a")]
    assert len(store.tree(copy.id)) == 3
    assert not store.tree(copy.id).messages.keys() & store.tree(session.id).messages.keys()


def test_a_copy_may_come_in_any_order(store: Store, clock: Clock) -> None:
    messages = [
        Message(id=id, parent=id - 1 or None, role="user", content=str(id), created=0.0)
        for id in (3, 1, 2)
    ]
    copy = store.insert(store.create(), Tree.of(messages))
    assert reads_as(store, copy.id) == [("user", "1"), ("user", "2"), ("user", "3")]


def test_the_file_itself_holds_no_cycle(store: Store) -> None:
    message = store.add(store.create().id, None, "user", "x")
    writer = sqlite3.connect(store.path)
    with pytest.raises(sqlite3.IntegrityError):
        writer.execute("UPDATE messages SET parent = id WHERE id = ?", (message.id,))
    writer.close()


def test_the_file_is_for_its_owner_alone(store: Store) -> None:
    assert stat.S_IMODE(store.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def test_the_file_lies_where_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path / "here"))
    with Store() as store:
        assert store.path == tmp_path / "here" / "sessions.sqlite3"
    assert store.path.is_file()


def test_a_closed_store_says_so_in_one_line(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(SessionError, match="closed") as raised:
        store.sessions()
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", [b"no database at all, but long enough" * 50, b"SQLite format"])
def test_another_file_is_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions.sqlite3"
    path.write_bytes(content)
    with pytest.raises(SessionError) as raised:
        Store(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == content


def test_a_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(SessionError, match="cannot be opened"):
        Store(tmp_path / "file" / "sessions.sqlite3")


def test_damaged_settings_are_named(store: Store) -> None:
    session = store.create().id
    other = sqlite3.connect(store.path)
    with other:
        other.execute("UPDATE sessions SET settings = '[1]'")
    other.close()
    with pytest.raises(SessionError, match=f"conversation {session}"):
        store.sessions()


def test_token_ids_that_are_none_or_damaged_are_left_out(store: Store) -> None:
    session = store.create()
    reply = store.add(session.id, None, "assistant", "", complete=False)
    for ids in ((-1,), (1 << 32,), ()):
        assert store.complete(reply.id, "x", None, ids).token_ids == ()
    with store._database.write() as connection:
        connection.execute("UPDATE messages SET token_ids = x'010203'")
    assert store.message(reply.id).token_ids == ()
