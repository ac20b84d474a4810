"""The tree of a window and the tree on disk are one, whatever happens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sessions.clock import Clock

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions import Conversation, Statistics, Store, Tree

STATISTICS = Statistics(
    tokens=1, seconds=1.0, tps=1.0, first_token_seconds=0.5, reason="stop", model="demo"
)


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.tree.path()]


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["say", "edit", "reply", "switch", "delete"]), st.integers(0, 99)
        ),
        max_size=12,
    )
)
def test_what_a_window_has_is_what_is_on_disk(
    store: Store, other: Store, steps: list[tuple[str, int]]
) -> None:
    conversation = Conversation(store)
    conversation.say("first")
    for operation, choice in steps:
        ids = sorted(conversation.tree.messages)
        if not ids or operation == "say":
            conversation.say(f"say {choice}")
            continue
        at = ids[choice % len(ids)]
        if operation == "edit":
            conversation.edit(at, f"edit {choice}")
        elif operation == "reply":
            draft = conversation.reply(at)
            draft.append("reply")
            conversation.finish(draft, STATISTICS)
        elif operation == "switch":
            conversation.switch(at)
        else:
            conversation.delete(at)
        assert conversation.session is not None
        assert other.tree(conversation.session.id) == conversation.tree
        assert other.session(conversation.session.id) == conversation.session
        assert conversation.session.n_messages == len(conversation.tree)


def test_nothing_is_on_disk_before_the_first_message(store: Store) -> None:
    conversation = Conversation(store, model="a", settings={"seed": 1})
    conversation.configure(model="b", settings={"seed": 2})
    conversation.reload()
    assert (conversation.model, conversation.settings) == ("b", {"seed": 2})
    assert store.sessions() == []
    conversation.say("x")
    assert [(s.model, s.settings, s.title) for s in store.sessions()] == [("b", {"seed": 2}, "x")]
    conversation.configure(model="c", settings={})
    assert [(s.model, s.settings) for s in store.sessions()] == [("c", {})]
    assert (conversation.model, conversation.settings) == ("c", {})


def test_edits_replies_and_branches_leave_all_versions(store: Store) -> None:
    conversation = Conversation(store)
    question = conversation.say("q1")
    for text in ("a1", "a2"):
        draft = conversation.reply(question.id)
        draft.append(text)
        answer = conversation.finish(draft)
    conversation.say("q2")
    edited = conversation.edit(question.id, "q1, better")
    assert contents(conversation) == ["q1, better"]
    conversation.switch(conversation.tree.sibling(edited.id, -1))
    assert contents(conversation) == ["q1", "a2", "q2"]
    conversation.switch(conversation.tree.sibling(answer.id, -1))
    assert contents(conversation) == ["q1", "a1"]
    assert conversation.session is not None
    assert contents(Conversation.open(store, conversation.session.id)) == ["q1", "a1"]


def test_another_version_of_a_reply_begins_empty_beside_it(store: Store) -> None:
    conversation = Conversation(store)
    conversation.say("q")
    first = conversation.finish(conversation.reply())
    draft = conversation.reply()
    assert conversation.tree.position(draft.message.id) == (2, 2)
    assert conversation.tree.position(first.id) == (1, 2)
    assert not conversation.tree[draft.message.id].complete


def test_a_reply_may_end_while_another_branch_is_read(store: Store) -> None:
    conversation = Conversation(store)
    question = conversation.say("q")
    draft = conversation.reply()
    conversation.edit(question.id, "q, better")
    draft.append("late")
    reply = conversation.finish(draft, STATISTICS)
    assert contents(conversation) == ["q, better"]
    assert conversation.tree[reply.id].content == "late"


def test_a_reply_needs_a_message(store: Store) -> None:
    with pytest.raises(SessionError, match="write one first"):
        Conversation(store).reply()


def test_a_change_that_the_disk_refuses_changes_nothing(store: Store) -> None:
    conversation = Conversation(store)
    message = conversation.say("x")
    tree, session = conversation.tree, conversation.session
    store.close()
    for change in (
        lambda: conversation.say("y"),
        lambda: conversation.edit(message.id, "y"),
        lambda: conversation.reply(),
        lambda: conversation.switch(message.id),
        lambda: conversation.delete(message.id),
        lambda: conversation.configure(model="m", settings={}),
        lambda: conversation.reload(),
    ):
        with pytest.raises(SessionError):
            change()
        assert (conversation.tree, conversation.session) == (tree, session)


def test_a_clock_can_be_given_to_a_reply(store: Store, clock: Clock) -> None:
    conversation = Conversation(store)
    conversation.say("x")
    draft = conversation.reply(clock=clock)
    draft.append("a")
    assert store.message(draft.message.id).content == ""
    clock.pass_by(1)
    draft.tick()
    assert store.message(draft.message.id).content == "a"


def test_an_emptied_conversation_can_go_on(store: Store) -> None:
    conversation = Conversation(store)
    conversation.delete(conversation.say("x").id)
    assert conversation.tree == Tree()
    conversation.say("y")
    assert contents(conversation) == ["y"]
