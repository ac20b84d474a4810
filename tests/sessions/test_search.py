"""Search against a reading of every message from end to end."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_mistral.sessions import Hit, Store

TEXT = st.text("abAB1 .-_%\\'\"\n", max_size=30)
EXAMPLES = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=[True, False], ids=["words", "parts"])
def full_text(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def filled(path: Path, texts: list[str], *, full_text: bool) -> tuple[Store, dict[int, str]]:
    """A store with these messages alone, each in a session of its own."""
    store = Store(path, full_text=full_text)
    for session in store.sessions():
        store.delete(session.id)
    store.purge()
    added = [store.add(store.create().id, None, "user", text) for text in texts]
    return store, {message.id: message.content for message in added}


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def with_words(texts: dict[int, str], query: str) -> list[int]:
    wanted = words(query)
    return [
        id
        for id, text in sorted(texts.items(), reverse=True)
        if wanted and all(any(w.startswith(want) for w in words(text)) for want in wanted)
    ]


def with_parts(texts: dict[int, str], query: str) -> list[int]:
    parts = query.lower().split()
    return [
        id
        for id, text in sorted(texts.items(), reverse=True)
        if parts and all(part in text.lower() for part in parts)
    ]


@EXAMPLES
@given(st.lists(TEXT, max_size=6), TEXT)
def test_messages_with_all_words_are_found_the_newest_first(
    path: Path, texts: list[str], query: str
) -> None:
    store, contents = filled(path, texts, full_text=True)
    with store:
        expected = with_words(contents, query) or with_parts(contents, query)
        assert [hit.message for hit in store.search(query)] == expected


@EXAMPLES
@given(st.lists(TEXT, max_size=6), TEXT)
def test_without_an_index_messages_with_all_parts_are_found(
    path: Path, texts: list[str], query: str
) -> None:
    store, contents = filled(path, texts, full_text=False)
    with store:
        assert [hit.message for hit in store.search(query)] == with_parts(contents, query)


@EXAMPLES
@given(st.text(st.characters(exclude_categories=()), max_size=40))
def test_any_query_is_only_words(path: Path, query: str) -> None:
    with Store(path) as store:
        store.search(query)


@pytest.mark.parametrize("query", ["100%", "a_b", "c:\\d", "[x]"])
def test_signs_stand_for_themselves(path: Path, query: str) -> None:
    with Store(path, full_text=False) as store:
        session = store.create().id
        for text in (f"it is {query} here", "100x axb c:d c:\\\\x x"):
            store.add(session, None, "user", text)
        assert hits(store, query) == [f"it is <{query}> here"]


def test_a_query_of_any_length_is_answered(path: Path, full_text: bool) -> None:
    with Store(path, full_text=full_text) as store:
        for query in ("x" * 100_000, "x " * 100_000, "\\" * 100_000):
            assert store.search(query) == []


def hits(store: Store, query: str) -> list[str]:
    return [marked(hit) for hit in store.search(query)]


def marked(hit: Hit) -> str:
    text = hit.snippet.text
    for first, last in reversed(hit.snippet.hits):
        text = f"{text[:first]}<{text[first:last]}>{text[last:]}"
    return text


def test_a_hit_says_where_it_is(store: Store) -> None:
    session = store.create(title="Mine").id
    message = store.add(session, None, "assistant", "Der Hund\x1b]8;;x\x07 [b]bellt[/b]")
    (hit,) = store.search("bellt hund")
    assert (hit.session, hit.title, hit.message) == (session, "Mine", message.id)
    assert (hit.role, hit.created) == ("assistant", message.created)
    assert marked(hit) == "Der <Hund> ]8;;x  [b]<bellt>[/b]"


def test_accents_do_not_matter_where_there_is_an_index(store: Store) -> None:
    store.add(store.create().id, None, "user", "Où est le CAFÉ?")
    assert hits(store, "ou cafe") == ["<Où> est le <CAFÉ>?"]


def test_the_middle_of_a_word_is_found_where_no_word_begins_so(store: Store) -> None:
    session = store.create().id
    store.add(session, None, "user", "snowball")
    assert hits(store, "ball") == ["snow<ball>"]
    store.add(session, None, "user", "ballpark")
    assert hits(store, "ball") == ["<ball>park"]


def test_what_is_deleted_is_not_found_until_it_is_back(path: Path, full_text: bool) -> None:
    with Store(path, full_text=full_text) as store:
        session = store.create().id
        store.add(session, None, "user", "needle")
        store.delete(session)
        assert hits(store, "needle") == []
        store.restore(session)
        assert hits(store, "needle") == ["<needle>"]
        store.delete(session)
        store.purge()
        store.add(store.create().id, None, "user", "hay")
        assert hits(store, "needle") == []


def test_a_growing_reply_is_found(path: Path, full_text: bool) -> None:
    with Store(path, full_text=full_text) as store:
        reply = store.add(store.create().id, None, "assistant", "", complete=False)
        store.append(reply.id, "nee")
        store.append(reply.id, "dle work")
        assert hits(store, "needle") == ["<needle> work"]
        store.complete(reply.id, "ing", None)
        assert hits(store, "working") == ["needle <working>"]
        store.remove(store.sessions()[0].id, reply.id)
        assert hits(store, "needle") == []


def test_all_branches_are_searched(store: Store) -> None:
    session = store.create().id
    for _ in range(3):
        store.add(session, None, "user", "needle")
    assert len(store.search("needle")) == 3
    assert len(store.search("needle", limit=2)) == 2


def test_the_index_catches_up_with_what_was_written_without_it(path: Path) -> None:
    with Store(path, full_text=True) as store:
        session = store.create().id
        gone = store.add(session, None, "user", "early bird")
    with Store(path, full_text=False) as store:
        assert store._database.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'") == []
        store.remove(session, gone.id)
        store.add(session, None, "user", "late bird")
        assert hits(store, "bird") == ["late <bird>"]
    for _ in range(2):
        with Store(path, full_text=True) as store:
            assert hits(store, "bird") == ["late <bird>"]
            assert hits(store, "early") == []
            with store._database.write() as connection:
                connection.execute(
                    "INSERT INTO message_words (message_words, rank) VALUES ('integrity-check', 1)"
                )


def test_a_store_finds_out_whether_there_is_an_index(store: Store) -> None:
    with store._database.write() as connection:
        try:
            connection.execute("CREATE VIRTUAL TABLE temp.probe USING fts5(content)")
            there = True
        except Exception:
            there = False
    assert store.full_text == there
