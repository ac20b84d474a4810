"""Files that go along with a message."""

from __future__ import annotations

from pathlib import Path

import pytest
from chatting import Window, window
from scripted import finished, loaded
from textual.events import Paste

from mlx_mistral.live.events import Counted, Failed
from mlx_mistral.tui.chat.attached import escaped
from mlx_mistral.tui.commands.attach import attached


def last_sent(w: Window) -> str:
    return w.engine.replies[-1].messages[-1].content


async def test_a_file_is_counted_once_while_it_is_written_and_sent_between_fences(
    tmp_path: Path,
) -> None:
    (tmp_path / "notes.txt").write_text("buy milk\n")
    (tmp_path / "copy").write_text("buy milk\n")
    async with window() as w:
        w.chat.completion.folder = tmp_path
        await w.press(*"@notes.txt")
        await w.until(lambda: w.engine.counts)
        await w.press(*" @copy")
        await w.until(lambda: "copy: 9 bytes" in w.text)
        await w.press(*["backspace"] * 5, *"what")
        assert [count.text for count in w.engine.counts] == ["buy milk\n"]
        assert w.engine.counts[0].id < 0
        w.engine.tell(Counted(id=w.engine.counts[0].id, tokens=1204))
        await w.until(lambda: "notes.txt: 1,204 tokens" in w.text)
        await w.press("enter")
        await w.until(lambda: w.engine.replies)
        assert last_sent(w) == "@notes.txt what\n\nnotes.txt:\n```\nbuy milk\n```"
        await w.until(lambda: "1,204" not in w.text)
        await w.press(*"@notes.txt")
        await w.until(lambda: "notes.txt: 1,204 tokens" in w.text)
        assert len(w.engine.counts) == 1


async def test_a_new_model_counts_anew_and_a_count_that_failed_ends_no_reply(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.txt").write_text("text")
    async with window(load=False) as w:
        w.chat.completion.folder = tmp_path
        await w.press(*"@a.txt")
        await w.until(lambda: "a.txt: 4 bytes" in w.text)
        assert not w.engine.counts
        w.engine.tell(loaded())
        await w.until(lambda: w.engine.counts)
        await w.chat.send("hello")
        w.engine.tell(Failed(id=w.engine.counts[0].id, error="no"))
        w.engine.tell(loaded())
        await w.until(lambda: len(w.engine.counts) == 2)
        assert w.chat.conversation.running is not None


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("b.bin", b"\x00\xff", "no UTF-8"),
        ("big.txt", b"x" * 1_000_001, "1,000,000 bytes"),
        ("none.txt", None, "no such file"),
        ("folder/", None, "a folder"),
    ],
)
async def test_a_refusal_is_one_line_and_the_message_stays(
    tmp_path: Path, name: str, content: bytes | None, why: str
) -> None:
    (tmp_path / "folder").mkdir()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    async with window() as w:
        w.chat.completion.folder = tmp_path
        await w.send(f"see @{name} please")
        await w.until(lambda: w.said())
        ((role, line),) = w.said()
        assert role == "error"
        assert why in line
        assert "\n" not in line
        assert w.composer.text == f"see @{name} please"
        assert not w.engine.replies


async def test_a_refused_edit_stays_an_edit() -> None:
    async with window(messages=[("user", "before"), ("assistant", "yes")]) as w:
        w.chat.edit_message()
        await w.press(*" @none", "enter")
        await w.until(lambda: w.said()[-1][0] == "error")
        assert w.composer.text == "before @none"
        assert w.composer.edits == 1


async def test_a_message_that_is_taken_back_or_edited_attaches_its_file_once(
    tmp_path: Path,
) -> None:
    (tmp_path / "a.py").write_text("@property\n")
    async with window() as w:
        w.chat.completion.folder = tmp_path
        await w.send("one")
        await w.until(lambda: w.engine.replies)
        await w.send("@a.py")
        await w.until(lambda: len(w.chat.queue) == 1)
        await w.press("up")
        assert w.composer.text == "@a.py"
        await w.press("enter")
        await w.until(lambda: len(w.chat.queue) == 1)
        w.engine.tell(finished(w.engine.replies[0].id))
        await w.until(lambda: len(w.engine.replies) == 2)
        sent = last_sent(w)
        assert sent == "@a.py\n\na.py:\n```\n@property\n```"
        w.engine.tell(finished(w.engine.replies[1].id))
        await w.until(lambda: w.chat.conversation.running is None)
        w.chat.edit_message()
        await w.press("enter")
        await w.until(lambda: len(w.engine.replies) == 3)
        assert last_sent(w) == sent


async def test_at_signs_of_a_folded_paste_attach_nothing() -> None:
    text = "@property\n@@two\na@b @ c\n" * 100
    async with window() as w:
        w.composer.post_message(Paste(text))
        await w.press("enter")
        await w.until(lambda: w.engine.replies)
        assert last_sent(w) == text


def test_what_is_escaped_is_sent_as_it_was() -> None:
    text = '@a @@b @"c d" x@y @ @@@z\n@end'
    assert attached(escaped(text), lambda path: pytest.fail(path)) == (text, [])
