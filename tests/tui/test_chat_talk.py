"""Sending, streaming, stopping, queueing."""

from __future__ import annotations

import pytest
from chatting import LARGE, SMALL, window
from scripted import ScriptedEngine, echo, finished, loaded, pieces, says, told

from mlx_mistral.live.commands import Message
from mlx_mistral.live.events import Failed, LoadFailed, Loading


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_a_message_is_sent_and_its_reply_is_shown(size: tuple[int, int]) -> None:
    async with window(ScriptedEngine(says(echo)), size=size) as w:
        await w.press(*"hello", "enter")
        await w.until(lambda: "you said hello" in w.text)
        assert w.said() == [("user", "hello"), ("assistant", "you said hello")]
        assert "You" in w.text
        assert "Model" in w.text
        assert w.engine.replies[0].messages == (Message(role="user", content="hello"),)


async def test_the_next_message_brings_what_was_said() -> None:
    async with window() as w:
        await w.answer("one", "first")
        await w.answer("two", "second")
        assert [m.content for m in w.engine.replies[1].messages] == ["one", "first", "two"]
        assert len({reply.id for reply in w.engine.replies}) == 2


async def test_what_was_read_and_what_was_reused_is_counted() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        w.engine.tell(*told(id, "ok", prompt_tokens=1227, reused_tokens=1204))
        await w.until(lambda: "read 23 new tokens, 1,204 reused" in w.text)


async def test_text_is_shown_while_it_comes() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        w.engine.tell(*pieces(id, ["al", "pha"]))
        await w.until(lambda: "alpha" in w.text)
        w.engine.tell(*pieces(id, [" be", "ta"]))
        await w.until(lambda: "alpha beta" in w.text)
        assert w.chat.conversation.running is not None


async def test_escape_stops_a_reply_and_keeps_what_was_said() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        w.engine.tell(*pieces(w.engine.replies[0].id, ["half a"]))
        await w.until(lambda: "half a" in w.text)
        await w.press("escape")
        assert w.engine.stops == [w.engine.replies[0].id]
        await w.until(lambda: w.chat.conversation.running is None)
        assert w.said()[-1] == ("assistant", "half a")
        assert "stopped" in w.text


async def test_a_reply_stopped_before_its_first_word_leaves_no_empty_message() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        await w.press("escape")
        await w.until(lambda: w.chat.conversation.running is None)
        assert [m.role for m in w.chat.conversation.tree.path()] == ["user"]
        await w.press("ctrl+r")
        await w.until(lambda: len(w.engine.replies) == 2)
        assert [m.content for m in w.engine.replies[1].messages] == ["hi"]


async def test_events_of_another_reply_are_not_shown() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        w.engine.tell(*told(w.engine.replies[0].id + 100, "stray"))
        w.engine.tell(*pieces(w.engine.replies[0].id, ["mine"]))
        await w.until(lambda: "mine" in w.text)
        assert "stray" not in w.text


async def test_messages_wait_for_the_reply_before_them() -> None:
    async with window() as w:
        await w.send("one")
        await w.send("two")
        await w.send("three")
        await w.until(lambda: "queued: two" in w.text and "queued: three" in w.text)
        assert len(w.engine.replies) == 1
        w.engine.tell(*told(w.engine.replies[0].id, "first"))
        await w.until(lambda: len(w.engine.replies) == 2)
        assert [m.content for m in w.engine.replies[1].messages] == ["one", "first", "two"]
        assert "queued: two" not in w.text
        assert "queued: three" in w.text


async def test_a_queued_message_can_be_taken_back_or_removed() -> None:
    async with window() as w:
        await w.send("one")
        await w.send("two")
        await w.send("three")
        await w.until(lambda: len(w.chat.queue) == 2)
        await w.press("up")
        await w.until(lambda: w.composer.text == "three")
        await w.press("f8")
        await w.until(lambda: len(w.chat.queue) == 0)
        assert "queued" not in w.text


async def test_stopping_holds_the_queue_until_enter() -> None:
    async with window() as w:
        await w.send("one")
        await w.until(lambda: w.engine.replies)
        await w.send("two")
        w.engine.tell(*pieces(w.engine.replies[0].id, ["x"]))
        await w.press("escape")
        await w.until(lambda: w.chat.conversation.running is None)
        assert len(w.engine.replies) == 1
        await w.until(lambda: "Enter sends the first" in w.text)
        await w.press("enter")
        await w.until(lambda: len(w.engine.replies) == 2)


async def test_one_can_write_and_queue_while_a_model_is_loaded() -> None:
    async with window(load=False) as w:
        w.engine.tell(Loading(model="demo", stage="weights", done=1, total=4))
        await w.until(lambda: "weights, 25%" in w.text)
        await w.press(*"hello", "enter")
        await w.until(lambda: "queued: hello" in w.text)
        assert not w.engine.replies
        w.engine.tell(loaded())
        await w.until(lambda: w.engine.replies)
        assert w.said()[0] == ("user", "hello")


async def test_a_model_that_cannot_be_loaded_is_an_error_line() -> None:
    async with window(load=False) as w:
        w.engine.tell(LoadFailed(model="demo", error="no [red]such[/red] model; name another"))
        await w.until(lambda: "no [red]such[/red] model" in w.text)
        assert "Error" in w.text
        await w.press("a")
        assert w.composer.text == "a"


async def test_escape_ends_the_loading_of_a_model() -> None:
    async with window(load=False) as w:
        w.engine.tell(Loading(model="demo", stage="downloading", done=1, total=4))
        await w.until(lambda: "downloading, 25%" in w.text)
        await w.press("escape")
        await w.until(lambda: "no model is loaded; F5 chooses one" in w.text)
        assert w.engine.stopped_loads == 1
        await w.send("/model other")
        await w.until(lambda: len(w.engine.loads) == 2)
        await w.press("escape")
        w.engine.tell(loaded("demo"))  # the one before is still there
        await w.until(lambda: w.chat.is_loaded)
        assert w.chat.model == "demo"
        assert w.engine.stopped_loads == 2
        await w.press("escape")
        assert w.engine.stopped_loads == 2


async def test_a_reply_that_fails_is_an_error_line_and_can_be_asked_for_again() -> None:
    async with window() as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
        w.engine.tell(Failed(id=w.engine.replies[0].id, error="too long; shorten it"))
        await w.until(lambda: "too long; shorten it" in w.text)
        assert [m.role for m in w.chat.conversation.tree.path()] == ["user"]
        await w.press("ctrl+r")
        await w.until(lambda: len(w.engine.replies) == 2)


async def test_the_engine_is_closed_with_the_window() -> None:
    engine = ScriptedEngine(ends_when_stopped=False)
    async with window(engine) as w:
        await w.send("hi")
        await w.until(lambda: w.engine.replies)
    assert engine.closed == 1
    engine.tell(finished(1))  # nobody listens any more, and nothing breaks
