"""Editing, asking again, switching between versions."""

from __future__ import annotations

from chatting import window
from scripted import told

from mlx_mistral.tui.chat.conversation import Conversation


def contents(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.tree.path()]


async def test_an_edited_message_is_sent_as_a_branch() -> None:
    async with window() as w:
        await w.answer("one", "first")
        await w.answer("two", "second")
        w.composer.write("my draft")
        await w.press("tab", "up", "up", "up", "e")
        await w.until(lambda: w.composer.text == "one")
        assert "Editing" in w.text
        await w.press("!", "enter")
        await w.until(lambda: len(w.engine.replies) == 3)
        assert [m.content for m in w.engine.replies[2].messages] == ["one!"]
        assert w.composer.text == "my draft"
        assert "You · 2 of 2" in w.text
        w.engine.tell(*told(w.engine.replies[2].id, "third"))
        await w.until(lambda: "third" in w.text)
        assert contents(w.chat.conversation) == ["one!", "third"]


async def test_an_edit_can_be_left() -> None:
    async with window() as w:
        await w.answer("one", "first")
        w.composer.write("my draft")
        await w.press("tab", "up", "e")
        await w.until(lambda: w.composer.text == "one")
        await w.press("escape")
        assert w.composer.text == "my draft"
        assert contents(w.chat.conversation) == ["one", "first"]
        assert len(w.engine.replies) == 1


async def test_a_reply_is_made_again_and_versions_are_switched() -> None:
    async with window() as w:
        await w.answer("one", "first")
        await w.answer("two", "second")
        await w.press("tab", "up", "up", "r")
        await w.until(lambda: len(w.engine.replies) == 3)
        assert [m.content for m in w.engine.replies[2].messages] == ["one"]
        w.engine.tell(*told(w.engine.replies[2].id, "other"))
        await w.until(lambda: "Model · 2 of 2" in w.text)
        assert contents(w.chat.conversation) == ["one", "other"]
        await w.until(lambda: w.chat.conversation.running is None)
        w.transcript.focus()
        await w.until(lambda: w.transcript.selected == 1)
        await w.press("left")
        await w.until(lambda: "Model · 1 of 2" in w.text)
        assert contents(w.chat.conversation) == ["one", "first", "two", "second"]
        assert w.transcript.selected == 1
        await w.press("right")
        await w.until(lambda: "Model · 2 of 2" in w.text)
        assert contents(w.chat.conversation) == ["one", "other"]


async def test_nothing_is_changed_while_a_reply_is_made() -> None:
    async with window() as w:
        await w.answer("one", "first")
        await w.send("two")
        await w.until(lambda: len(w.engine.replies) == 2)
        await w.press("ctrl+r")
        await w.pilot.pause()
        assert len(w.engine.replies) == 2


async def test_an_edit_waits_for_the_reply_that_is_being_made() -> None:
    async with window() as w:
        await w.send("one")
        await w.until(lambda: w.engine.replies)
        await w.press("tab", "up", "e")
        await w.until(lambda: w.composer.text == "one")
        await w.press("!", "enter")
        await w.until(lambda: "queued: one!" in w.text)
        w.engine.tell(*told(w.engine.replies[0].id, "first"))
        await w.until(lambda: len(w.engine.replies) == 2)
        assert [m.content for m in w.engine.replies[1].messages] == ["one!"]
