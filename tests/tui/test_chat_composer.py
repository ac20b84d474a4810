"""Writing: lines, pastes, earlier prompts, drafts."""

from __future__ import annotations

from chatting import Window, window
from textual.events import Paste


async def paste(w: Window, text: str) -> None:
    w.composer.post_message(Paste(text))
    await w.pilot.pause()


async def test_keys_add_lines_and_enter_sends_them_all() -> None:
    async with window() as w:
        await w.press("a", "shift+enter", "b", "ctrl+j", "c", "enter")
        await w.until(lambda: w.engine.replies)
        assert w.engine.replies[0].messages[0].content == "a\nb\nc"
        assert w.composer.text == ""


async def test_blanks_are_not_sent() -> None:
    async with window() as w:
        await w.press("space", "enter", "enter")
        assert not w.engine.replies


async def test_a_long_paste_is_folded_and_sent_whole() -> None:
    text = "line of a log\n" * 100_000
    async with window() as w:
        await w.press(*"see ")
        await paste(w, text)
        assert w.composer.text == "see [pasted 1,400,000 characters]"
        await paste(w, text)
        await w.press("enter")
        await w.until(lambda: w.engine.replies)
        assert w.engine.replies[0].messages[0].content == "see " + text + text
        assert "1,400,000" not in w.composer.text


async def test_a_folded_paste_is_deleted_as_a_whole() -> None:
    async with window() as w:
        await w.press("a")
        await paste(w, "x" * 5000)
        await w.press("backspace")
        assert w.composer.text == "a"
        assert w.composer.whole_text == "a"


async def test_a_short_paste_is_shown_and_its_line_ends_are_newlines() -> None:
    async with window() as w:
        await paste(w, "one\r\ntwo\rthree\x1b[31m\x00")
        assert w.composer.text == "one\ntwo\nthree"
        assert not w.engine.replies


async def test_up_and_down_walk_through_earlier_prompts_and_the_draft_is_kept() -> None:
    async with window() as w:
        await w.answer("one", "1")
        await w.answer("two\nlines", "2")
        await w.press(*"draft", "up")
        assert w.composer.text == "two\nlines"
        await w.press("up")
        assert w.composer.text == "two\nlines"  # the cursor went up a line
        await w.press("up")
        assert w.composer.text == "one"
        await w.press("up")
        assert w.composer.text == "one"
        await w.press("down")
        assert w.composer.text == "two\nlines"
        await w.press("down")
        assert w.composer.text == "draft"
        await w.press("down")
        assert w.composer.text == "draft"


async def test_prompts_of_a_reopened_conversation_are_walked_through() -> None:
    async with window(messages=[("user", "before"), ("assistant", "yes")]) as w:
        await w.press("up")
        assert w.composer.text == "before"


async def test_a_draft_survives_the_message_mode() -> None:
    async with window(messages=[("user", "before"), ("assistant", "yes")]) as w:
        await w.press(*"half", "tab", "up", "tab", *" done")
        assert w.composer.text == "half done"
