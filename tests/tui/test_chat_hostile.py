"""Text that would like to be more than text."""

from __future__ import annotations

import random
import sys
import unicodedata

import pytest
from chatting import window
from scripted import pieces, told
from textual.events import Paste

from mlx_mistral.tui.chat.attached import escaped
from mlx_mistral.tui.chat.clean import clean
from mlx_mistral.tui.chat.thought import Thought

MARKUP = "[bold red]no[/] [link=http://x.test]no[/link] [@click=app.quit]quit[/]"


async def test_markup_of_a_model_and_of_a_user_is_shown_as_it_is() -> None:
    async with window() as w:
        await w.answer(MARKUP, MARKUP)
        lines = w.text
        assert lines.count("[bold red]no[/]") == 2
        assert lines.count("[@click=app.quit]quit[/]") == 2


async def test_links_and_html_are_shown_as_text_and_nothing_is_opened(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda url, *rest: opened.append(url))
    text = (
        "[text](http://x.test) <b>html</b> ![p](http://y.test) http://z.test &#27;[31m\n\n"
        "<div>block</div>\n\n[ref]\n\n[ref]: http://w.test\n"
    )
    async with window() as w:
        await w.answer("hi", text)
        for part in ("[text](http://x.test)", "<b>html</b>", "<div>block</div>", "http://w.test"):
            assert part in w.text
        for y in range(24):
            await w.pilot.click(offset=(5, y))
        assert opened == []


async def test_escape_sequences_reach_no_cell() -> None:
    async with window() as w:
        await w.answer("hi \x1b[2J", "a\x1b[31", "mb\x1b]0;t", "itle\x07c\x08\x00d")
        await w.until(lambda: "abcd" in w.text)
        assert not [c for c in w.text if c != "\n" and (ord(c) < 32 or 0x7F <= ord(c) < 0xA0)]


ALPHABET = [
    *"\x1b[\x1b]\x9b\x07\x00\r\n\t\x7f\x85 []()*_`#|>-~<&;:\\/=@!0123",
    "[THINK]", "[/THINK]", "```", "```python\n", "\n\n", "| a | b |\n|---|---|\n| c | d |\n",
    "\x1b[31m", "\x1b]8;;http://x.test\x07", "[bold]", "[/]", "[@click=app.quit]x[/]", "<script>",
    "&#x202e;", "- ", "1. ", "> ", "# ", "[x](javascript:1)", "![y](z)", "שלום", "مرحبا",
    "日本語", "👩‍👩‍👧‍👦", "e\u0301\u0301\u0301", "\u202e", "\u200d", "\ufeff", "\ud800",
    "\U0010ffff", "word " * 40,
]  # fmt: skip
SIZES = [(80, 24), (20, 8), (140, 45), (5, 3), (33, 60)]


@pytest.mark.parametrize("seed", range(3))
async def test_any_text_in_any_size_breaks_nothing(seed: int) -> None:
    chance = random.Random(seed)

    def noise(n: int) -> str:
        return "".join(chance.choice(ALPHABET) for _ in range(n))

    async with window() as w:
        said: list[str] = []
        for turn in range(2):
            w.composer.write("")
            w.composer.post_message(Paste(escaped(clean("x" + noise(30)))))
            await w.press("enter")
            await w.until(lambda turn=turn: len(w.engine.replies) == turn + 1)
            id = w.engine.replies[-1].id
            texts = [noise(8) for _ in range(25)]
            for at in range(0, len(texts), 5):
                w.engine.tell(*pieces(id, texts[at : at + 5]))
                await w.pilot.resize_terminal(*chance.choice(SIZES))
            w.engine.tell(*told(id))
            await w.until(lambda: w.chat.conversation.running is None)
            said.append("".join(texts))
        await w.pilot.resize_terminal(80, 24)
        for thought in w.transcript.query(Thought):
            thought.opened = True
        await w.pilot.pause()
        replies = [text for role, text in w.said() if role == "assistant"]
        assert replies == said  # what was said is kept letter by letter
        assert w.app.is_running


async def test_random_unicode_is_told_kept_and_shown_without_anything_that_acts() -> None:
    chance = random.Random(0)

    def noise(n: int) -> str:
        codes = chance.choices(range(sys.maxunicode + 1), k=n)
        return "".join(chr(chance.choice((code, code % 0x3000))) for code in codes)

    async with window() as w:
        for _ in range(3):
            texts = [noise(40) for _ in range(15)]
            w.composer.write("")
            w.composer.post_message(Paste(f"x{noise(200)}"))
            await w.until(lambda: w.composer.text)
            await w.answer(w.composer.text, *texts)
            assert w.said()[-1] == ("assistant", "".join(texts))
            cells = w.text.replace("\n", "")
            assert not {c for c in cells if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")}
            assert not set(cells) & set("\u202d\u202e\u2066\u2067\u2068")


async def test_random_bytes_break_nothing() -> None:
    chance = random.Random(0)
    async with window() as w:
        text = chance.randbytes(20_000).decode("latin-1")
        await w.answer("hi", text)
        await w.answer("hi", chance.randbytes(20_000).decode("utf-8", "replace"))
        assert w.app.is_running
