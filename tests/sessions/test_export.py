"""What is exported comes back as it was; what strangers made up is refused in one line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import (
    Message,
    Session,
    Statistics,
    Store,
    Tree,
    export_json,
    export_markdown,
    import_file,
    import_json,
)
from mlx_mistral.sessions import export as export_module
from mlx_mistral.sessions.tree import ROLES

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
TIME = st.floats(0, 4e9)
STATISTICS = st.builds(
    Statistics,
    tokens=st.integers(0, 10**9),
    seconds=TIME,
    tps=st.floats(0, 1e6),
    first_token_seconds=st.none() | TIME,
    reason=TEXT,
    model=TEXT,
    prompt_tokens=st.none() | st.integers(0, 10**9),
    reused_tokens=st.none() | st.integers(0, 10**9),
)
SETTINGS = st.dictionaries(
    TEXT, TEXT | st.integers(-(10**12), 10**12) | st.floats(-1e9, 1e9) | st.booleans() | st.none()
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    ids = sorted(draw(st.sets(st.integers(0, 10**6), max_size=8)))
    messages = [
        Message(
            id=id,
            parent=draw(st.sampled_from([None, *ids[:position]])),
            role=draw(st.sampled_from(ROLES)),
            content=draw(TEXT),
            created=draw(TIME),
            complete=draw(st.booleans()),
            statistics=draw(st.none() | STATISTICS),
        )
        for position, id in enumerate(ids)
    ]
    return Tree.of(messages, draw(st.sampled_from([None, *ids])))


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    return Session(
        id=0,
        title=draw(TEXT),
        model=draw(TEXT),
        settings=draw(SETTINGS),
        created=draw(TIME),
        updated=draw(TIME),
        deleted=None,
        leaf=None,
        n_messages=0,
    )


def renumbered(tree: Tree) -> Tree:
    """The same messages as 1, 2, 3 and so on."""
    new: dict[int | None, int] = {id: n for n, id in enumerate(sorted(tree.messages), start=1)}
    messages = [
        replace(message, id=new[message.id], parent=new.get(message.parent))
        for message in tree.messages.values()
    ]
    return Tree.of(messages, new.get(tree.leaf))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(sessions(), trees())
def test_what_is_exported_comes_back(store: Store, session: Session, tree: Tree) -> None:
    exported = export_json(session, tree)
    again, tree_again = import_json(exported.encode(), "file")
    assert tree_again == renumbered(tree)
    assert again == replace(session, leaf=tree_again.leaf, n_messages=len(tree))
    assert export_json(again, tree_again) == exported
    kept = store.insert(again, tree_again)
    assert export_json(kept, store.tree(kept.id)) == exported


@given(sessions(), trees())
def test_no_character_of_an_exported_file_acts(session: Session, tree: Tree) -> None:
    assert all(" " <= char <= "~" or char == "\n" for char in export_json(session, tree))
    for char in export_markdown(session, tree):
        assert char.isprintable() or char in "\n\t" or not char.isascii()
        assert not "\x7f" <= char <= "\x9f"


def spoken() -> tuple[Session, Tree]:
    session = Session(
        id=7,
        title="Rivers\x1b[2J",
        model="demo",
        settings={"system": "Be brief.", "temperature": 0},
        created=0.0,
        updated=1.0,
        deleted=None,
        leaf=3,
        n_messages=3,
    )
    tree = Tree.of(
        [
            Message(id=1, parent=None, role="user", content="Which?", created=0.0),
            Message(id=2, parent=1, role="assistant", content="None.", created=0.0),
            Message(
                id=3,
                parent=1,
                role="assistant",
                content="The *Loire*\r\n\x1b]0;x\x07",
                created=0.0,
                complete=False,
            ),
        ]
    )
    return session, tree


def test_markdown_is_the_branch_that_is_read() -> None:
    assert export_markdown(*spoken()) == (
        "# Rivers [2J\n\ndemo 1970-01-01 00:00 UTC\n\n## System\n\nBe brief.\n\n"
        "## User\n\nWhich?\n\n## Assistant\n\nThe *Loire*\n]0;x\n\n*This reply was cut off.*\n"
    )


def test_a_conversation_without_anything_is_markdown_too() -> None:
    session = replace(spoken()[0], title="", model="", settings={})
    assert export_markdown(session, Tree()) == "# Conversation\n\n1970-01-01 00:00 UTC\n"


def exported() -> dict[str, Any]:
    entry: dict[str, Any] = json.loads(export_json(*spoken()))
    return entry


def message_with(**changes: object) -> dict[str, Any]:
    entry = exported()
    entry["messages"][1].update(changes)
    return entry


STATISTICS_JSON = {
    "tokens": 1, "seconds": 1.0, "tps": 1, "first_token_seconds": None, "reason": "", "model": "",
}  # fmt: skip


def without(entry: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in entry.items() if name != key}


@pytest.mark.parametrize(
    "entry",
    [
        exported(),
        message_with(statistics=STATISTICS_JSON),
        message_with(created=5),
        {**exported(), "version": 1},
        message_with(statistics={**STATISTICS_JSON, "reused_tokens": 3}),
        {**exported(), "settings": {"a": -5, "b": 0.5, "c": True, "d": None, "e": "é"}},
    ],
)
def test_what_is_right_is_taken(entry: dict[str, Any]) -> None:
    import_json(json.dumps(entry).encode(), "file")


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({}, "no exported conversation"),
        ({**exported(), "format": "other"}, "no exported conversation"),
        ({**exported(), "version": 3}, "version 3"),
        ({**exported(), "version": True}, "version True"),
        ({**exported(), "version": "1"}, "version '1'"),
        ({**exported(), "more": 1}, "no object of"),
        (without(exported(), "title"), "no object of"),
        ({**exported(), "title": 5}, "title is no text"),
        ({**exported(), "title": "x" * ((1 << 20) + 1)}, "title is no text"),
        ({**exported(), "title": "\ud800"}, "half a character"),
        ({**exported(), "model": None}, "model is no text"),
        ({**exported(), "settings": []}, "settings"),
        ({**exported(), "settings": {"a": []}}, "setting 'a'"),
        ({**exported(), "settings": {"a": 1 << 63}}, "setting 'a'"),
        ({**exported(), "settings": {"\ud800": 1}}, "half a character"),
        ({**exported(), "settings": {str(n): n for n in range(101)}}, "at most 100"),
        ({**exported(), "created": "now"}, "created is no number"),
        ({**exported(), "created": True}, "created is no number"),
        ({**exported(), "created": -1}, "created is no number from 0"),
        ({**exported(), "updated": 1e300}, "updated is no number from 0"),
        ({**exported(), "leaf": 1}, "leaf 1"),
        ({**exported(), "leaf": 9}, "leaf 9"),
        ({**exported(), "leaf": None}, "leaf None"),
        ({**exported(), "leaf": "3"}, "leaf is no whole number"),
        ({**exported(), "messages": {}}, "messages are no list"),
        ({**exported(), "messages": [5], "leaf": 1}, "message 1: an entry"),
        (message_with(id=1), "occurs twice"),
        (message_with(id=True), "id is no whole number"),
        (message_with(id=-1), "id is no whole number"),
        (message_with(id=1 << 63), "id is no whole number"),
        (message_with(parent=9), "follows message 9"),
        (message_with(parent=2), "follows message 2"),
        (message_with(parent=3), "follows message 3"),
        (message_with(parent="1"), "parent is no whole number"),
        (message_with(role="tool"), "role is none of"),
        (message_with(role=["user"]), "role is none of"),
        (message_with(content=None), "content is no text"),
        (message_with(content="\udfff"), "half a character"),
        (message_with(complete=1), "neither true nor false"),
        (message_with(statistics=[]), "no object of"),
        (message_with(statistics={**STATISTICS_JSON, "tokens": 1.5}), "tokens"),
        (message_with(statistics={**STATISTICS_JSON, "tps": -1}), "tps"),
        (message_with(statistics={**STATISTICS_JSON, "first_token_seconds": "0"}), "first_token"),
        (message_with(statistics={**STATISTICS_JSON, "reason": 0}), "reason"),
        (message_with(statistics={**STATISTICS_JSON, "reused_tokens": -1}), "reused_tokens"),
        (message_with(statistics=without(STATISTICS_JSON, "model")), "no object of"),
        (message_with(extra="x"), "no object of"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(entry: dict[str, Any], named: str) -> None:
    with pytest.raises(SessionError) as raised:
        import_json(json.dumps(entry).encode(), "file")
    told = str(raised.value)
    assert named in told
    assert told.startswith("file")
    assert told.isascii()
    assert told.isprintable()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": NaN}',
        b'{"format": 1, "format": 2}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"version": ' + b"9" * 10_000 + b"}",
        export_json(*spoken()).encode()[:-10],
    ],
)
def test_what_is_no_json_is_refused_in_one_line(raw: bytes) -> None:
    with pytest.raises(SessionError) as raised:
        import_json(raw, "file")
    assert str(raised.value).startswith("file")
    assert "\n" not in str(raised.value)


def test_a_statement_about_times_that_is_infinite_is_refused() -> None:
    raw = json.dumps(exported()).replace('"created": 0.0', '"created": 1e999')
    with pytest.raises(SessionError, match="created"):
        import_json(raw.encode(), "file")


@settings(max_examples=150)
@given(st.data())
def test_damage_anywhere_is_refused_or_is_still_a_conversation(data: st.DataObject) -> None:
    raw = bytearray(export_json(*spoken()).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    told = ""
    try:
        session, tree = import_json(bytes(raw), "file")
        export_json(session, tree)
        export_markdown(session, tree)
    except SessionError as error:
        told = str(error)
    assert "\n" not in told


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = export_json(*spoken()).encode()
    monkeypatch.setattr(export_module, "MAX_MESSAGES", 2)
    with pytest.raises(SessionError, match="at most 2"):
        import_json(raw, "file")
    monkeypatch.setattr(export_module, "MAX_BYTES", len(raw) - 1)
    with pytest.raises(SessionError, match="more than"):
        import_json(raw, "file")


def test_a_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    path.write_text(export_json(*spoken()))
    session, tree = import_file(path)
    assert session.title == spoken()[0].title
    assert tree == spoken()[1]


def test_no_more_of_a_file_is_read_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "chat.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr(export_module, "MAX_BYTES", 1000)
    with pytest.raises(SessionError, match="more than"):
        import_file(path)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "missing", "."):
        with pytest.raises(SessionError, match="no file that can be read"):
            import_file(tmp_path / name)
