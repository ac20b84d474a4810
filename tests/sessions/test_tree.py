"""A tree of messages against a plain list of (id, parent), searched from end to end."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions.tree import Message, Place, Tree


def message(id: int, parent: int | None = None, role: str = "user") -> Message:
    return Message(id=id, parent=parent, role=role, content=f"text {id}", created=float(id))


@dataclass
class Plain:
    """The same conversation, each question answered by looking at every message."""

    parents: dict[int, int | None] = field(default_factory=dict)
    leaf: int | None = None

    def is_leaf(self, id: int) -> bool:
        return id not in self.parents.values()

    def ancestry(self, id: int | None) -> list[int]:
        return [] if id is None else [*self.ancestry(self.parents[id]), id]

    def newest_leaf(self, id: int) -> int:
        return max(o for o in self.parents if self.is_leaf(o) and id in self.ancestry(o))

    def versions(self, id: int) -> list[int]:
        return sorted(o for o, parent in self.parents.items() if parent == self.parents[id])

    def delete(self, id: int) -> None:
        versions, before = self.versions(id), self.parents[id]
        was_read = id in self.ancestry(self.leaf)
        self.parents = {o: p for o, p in self.parents.items() if id not in self.ancestry(o)}
        if was_read:
            older = [other for other in versions if other < id]
            newer = [other for other in versions if other > id]
            if older or newer:
                self.leaf = self.newest_leaf(older[-1] if older else newer[0])
            else:
                self.leaf = before


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["say", "beside", "under", "switch", "delete"]), st.integers(0, 999)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_any_history_leads_where_a_plain_list_leads(operations: list[tuple[str, int]]) -> None:
    tree, plain = Tree(), Plain()
    for id, (operation, choice) in enumerate(operations, start=1):
        at = sorted(plain.parents)[choice % len(plain.parents)] if plain.parents else None
        if operation == "say" or at is None:
            parent = plain.leaf
        elif operation == "beside":
            parent = tree.place_of_edit(at).parent
            assert parent == plain.parents[at]
        else:
            parent = at
        if operation == "switch" and at is not None:
            tree, plain.leaf = tree.switch(at), plain.newest_leaf(at)
        elif operation == "delete" and at is not None:
            tree = tree.delete(at)
            plain.delete(at)
        else:
            tree = tree.add(message(id, parent))
            plain.parents[id] = parent
            plain.leaf = id
        agree(tree, plain)


def agree(tree: Tree, plain: Plain) -> None:
    assert {id: m.parent for id, m in tree.messages.items()} == plain.parents
    assert tree.leaf == plain.leaf
    assert [m.id for m in tree.path()] == plain.ancestry(plain.leaf)
    for id in plain.parents:
        versions = plain.versions(id)
        assert [m.id for m in tree.siblings(id)] == versions
        assert tree.position(id) == (versions.index(id) + 1, len(versions))
        assert tree.sibling(id, -1) == max([o for o in versions if o < id], default=id)
        assert tree.sibling(id, 1) == min([o for o in versions if o > id], default=id)
        assert [m.id for m in tree.path(id)] == plain.ancestry(id)
        assert tree.newest_leaf(id) == plain.newest_leaf(id)
        assert tree.subtree(id) == {o for o in plain.parents if id in plain.ancestry(o)}


@pytest.fixture
def exchange() -> Tree:
    """A question, its answer, another question."""
    return Tree().add(message(1)).add(message(2, 1, "assistant")).add(message(3, 2))


def test_an_edit_goes_beside_the_message_and_leaves_it_as_it_was(exchange: Tree) -> None:
    place = exchange.place_of_edit(3)
    edited = exchange.add(message(4, place.parent, place.role))
    assert [m.id for m in edited.path()] == [1, 2, 4]
    assert edited.messages[3] == exchange.messages[3]
    assert exchange.leaf == 3


def test_a_reply_goes_below_a_question_and_beside_a_reply(exchange: Tree) -> None:
    assert exchange.place_of_reply(3) == Place(parent=3, role="assistant")
    assert exchange.place_of_reply(2) == Place(parent=1, role="assistant")


def test_an_edit_keeps_the_role(exchange: Tree) -> None:
    assert exchange.place_of_edit(2) == Place(parent=1, role="assistant")


def test_a_reply_to_nothing_is_refused() -> None:
    tree = Tree().add(message(1, role="assistant"))
    with pytest.raises(SessionError, match="message 1 answers nothing"):
        tree.place_of_reply(1)


def test_a_message_that_grew_stays_in_its_place(exchange: Tree) -> None:
    longer = replace(exchange[2], content="more")
    assert [m.content for m in exchange.update(longer).path()] == ["text 1", "more", "text 3"]
    with pytest.raises(SessionError, match="cannot move"):
        exchange.update(replace(longer, parent=None))


@pytest.mark.parametrize(
    ("parents", "leaf"),
    [
        ({1: 1}, 1),  # itself
        ({1: 2, 2: 1}, 2),  # a cycle
        ({1: None, 2: 7}, 2),  # unknown
        ({1: None, 2: 3, 3: 1}, 2),  # a later one
        ({1: None, 2: 1}, 1),  # not where a branch ends
        ({1: None}, None),
        ({1: None}, 5),
        ({}, 5),
    ],
)
def test_what_is_no_tree_is_refused(parents: dict[int, int | None], leaf: int | None) -> None:
    messages = {id: message(id, parent) for id, parent in parents.items()}
    with pytest.raises(SessionError) as raised:
        Tree(messages=messages, leaf=leaf)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("hint", "leaf"), [(None, 5), (99, 5), (2, 4), (5, 5), (1, 4)])
def test_a_tree_is_read_at_the_newest_leaf_below_a_hint(hint: int | None, leaf: int) -> None:
    messages = [message(1), message(2, 1), message(3, 2), message(4, 2), message(5)]
    assert Tree.of(messages, hint).leaf == leaf


def test_the_version_before_is_read_in_place_of_a_deleted_one() -> None:
    tree = Tree.of([message(1), message(2), message(3)])
    assert tree.switch(2).delete(2).leaf == 1
    assert tree.switch(1).delete(1).leaf == 2
    assert tree.switch(2).delete(3).leaf == 2


def test_the_order_in_which_messages_are_given_does_not_matter() -> None:
    messages = [message(1), message(2, 1), message(3, 1), message(4, 2)]
    assert Tree.of(reversed(messages), 3) == Tree.of(messages, 3)
    assert [m.id for m in Tree.of(reversed(messages)).siblings(3)] == [2, 3]


def test_an_unknown_message_is_named(exchange: Tree) -> None:
    with pytest.raises(SessionError, match="no message 9"):
        exchange.switch(9)


def test_a_conversation_of_any_depth_can_be_walked() -> None:
    tree = Tree.of([message(id, id - 1 or None) for id in range(1, 5001)])
    assert len(tree.path()) == len(tree.subtree(1)) == len(tree) == 5000
    assert tree.delete(1) == Tree()
