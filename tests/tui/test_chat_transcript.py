"""Long conversations, scrolling, choosing and copying messages, thoughts."""

from __future__ import annotations

import pytest
from chatting import LARGE, SMALL, long_talk, views, window
from scripted import pieces, told
from textual._compositor import Compositor
from textual.geometry import Size
from textual.widget import Widget
from textual.widgets.markdown import MarkdownBlock

from mlx_mistral.tui.chat.markdown import ModelMarkdown
from mlx_mistral.tui.chat.thought import Thought

CODE = "Look:\n\n```python\nx = 1\n```\n\nand\n\n```\ny = 2\n```\n"


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_of_a_long_conversation_only_the_end_is_mounted(size: tuple[int, int]) -> None:
    async with window(messages=long_talk(500), size=size) as w:
        assert len(w.transcript.entries) == 500
        assert size[1] / 3 < len(views(w)) == w.transcript.window < 24
        assert "499:" in w.text or w.transcript.scroll_y == w.transcript.max_scroll_y


async def test_every_message_is_reached_by_scrolling_and_few_are_mounted_at_once() -> None:
    async with window(messages=long_talk(45, 200)) as w:
        seen: set[int | None] = set()
        await w.press("tab")
        for _ in range(1000):
            mounted = views(w)
            assert len(mounted) <= 32
            seen |= {view.entry.id for view in mounted}
            if 1 in seen and w.transcript.scroll_y == 0:
                break
            await w.press("pageup")
        assert seen == set(range(1, 46))
        await w.press("end")
        await w.until(lambda: w.transcript.following)
        assert views(w)[-1].entry.id == 45


async def test_a_terminal_that_grows_is_filled() -> None:
    async with window(messages=long_talk(100, 10), size=(80, 12)) as w:
        before = len(views(w))
        await w.pilot.resize_terminal(80, 100)
        await w.until(lambda: len(views(w)) > before and w.transcript.max_scroll_y > 0)


async def test_scrolling_up_does_not_move_what_is_seen_when_more_is_mounted() -> None:
    async with window(messages=long_talk(60, 300)) as w:
        t = w.transcript
        first = t._from
        t.scroll_to(y=t.size.height + 2, animate=False)
        await w.pilot.pause()
        seen = next(v for v in views(w) if v.virtual_region.bottom > t.scroll_y)
        offset = seen.virtual_region.y - t.scroll_y
        t.scroll_to(y=t.scroll_y - 3, animate=False)
        await w.until(lambda: t._from < first)
        await w.pilot.pause()
        assert seen.virtual_region.y - t.scroll_y == pytest.approx(offset + 3, abs=1)


async def test_typing_renders_no_message_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with window(messages=long_talk(500)) as w:
        rendered: list[object] = []
        render = MarkdownBlock.render

        def counted(self: MarkdownBlock) -> object:
            rendered.append(self)
            return render(self)

        monkeypatch.setattr(MarkdownBlock, "render", counted)
        await w.press("a", "b", "c")
        assert w.composer.text == "abc"
        assert not rendered


async def test_a_frame_of_a_reply_lays_out_as_much_after_500_messages_as_after_40(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    laid_out: list[int] = []
    for n in (40, 500):
        async with window(messages=long_talk(n)) as w:
            await w.send("go on")
            await w.until(lambda w=w: w.engine.replies)
            id = w.engine.replies[0].id
            w.engine.tell(*pieces(id, ["It begins. "]))
            await w.until(lambda w=w: "It begins." in w.text)
            reflow, frames = Compositor.reflow, []

            def counted(
                self: Compositor, parent: Widget, size: Size, reflow=reflow, frames=frames
            ) -> object:
                done = reflow(self, parent, size)
                frames.append(len(self._full_map))
                return done

            monkeypatch.setattr(Compositor, "reflow", counted)
            for word in range(5):
                w.engine.tell(*pieces(id, [f"word{word} "]))
                await w.until(lambda w=w, word=word: f"word{word}" in w.text)
            monkeypatch.undo()
            laid_out.append(max(frames))
    assert laid_out[0] == laid_out[1]


async def test_the_transcript_follows_its_end() -> None:
    async with window(messages=long_talk(20)) as w:
        await w.send("go on")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        w.engine.tell(*pieces(id, [f"line {i}\n\n" for i in range(60)]))
        await w.until(lambda: "line 59" in w.text)


async def test_new_text_does_not_pull_down_who_has_scrolled_away() -> None:
    async with window(messages=long_talk(20)) as w:
        await w.send("go on")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        await w.press("pageup")
        await w.until(lambda: not w.transcript.following)
        at = w.transcript.scroll_target_y
        await w.until(lambda: w.transcript.scroll_y == at)
        w.engine.tell(*pieces(id, [f"line {i}\n\n" for i in range(60)]))
        await w.until(lambda: "new text below" in w.text)
        assert w.transcript.scroll_y == at
        assert "line 59" not in w.text
        await w.press("ctrl+end")
        await w.until(lambda: "line 59" in w.text)
        assert "new text below" not in w.text


async def test_a_live_reply_goes_on_where_it_was_unmounted_meanwhile() -> None:
    async with window(messages=long_talk(100, 200)) as w:
        await w.send("go on")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        w.engine.tell(*pieces(id, ["[THINK]hm", "m[/THI", "NK]alpha "]))
        await w.until(lambda: "alpha" in w.text)
        await w.press("tab", "home")
        await w.until(lambda: views(w)[0].entry.id == 1)
        w.engine.tell(*pieces(id, ["beta "]))
        await w.until(lambda: w.transcript.behind)
        await w.press("end")
        await w.until(lambda: "alpha beta" in w.text)
        w.engine.tell(*told(id, "gamma"))
        await w.until(lambda: "alpha beta gamma" in w.text)
        assert w.said()[-1][1] == "[THINK]hmm[/THINK]alpha beta gamma"


async def test_appending_costs_the_same_at_the_end_as_at_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed: list[int] = []
    append = ModelMarkdown.append

    def counted(self: ModelMarkdown, text: str) -> object:
        parsed.append(len(self.source) + len(text))
        return append(self, text)

    monkeypatch.setattr(ModelMarkdown, "append", counted)
    async with window() as w:
        await w.send("write a book")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        for chapter in range(10):
            w.engine.tell(*pieces(id, [f"Chapter {chapter}. " + "word " * 900 + "\n\n"]))
            await w.until(
                lambda chapter=chapter: f"Chapter {chapter}." in w.text or len(parsed) > chapter
            )
        assert len(w.transcript.query(ModelMarkdown)) > 5
        assert max(parsed) < 9_000


async def test_a_message_is_chosen_with_keys_and_copied() -> None:
    async with window() as w:
        await w.answer("one", "first")
        await w.answer("two", CODE)
        await w.press("tab")
        await w.until(lambda: "▸ Model" in w.text)
        await w.press("b")
        await w.until(lambda: w.app.clipboard == "x = 1\n")
        await w.press("b")
        await w.until(lambda: w.app.clipboard == "y = 2\n")
        await w.press("up", "c")
        await w.until(lambda: w.app.clipboard == "two")
        await w.press("k", "c")
        await w.until(lambda: w.app.clipboard == "first")
        await w.press("j", "j", "c")
        await w.until(lambda: w.app.clipboard == CODE)
        await w.press("escape")
        assert w.app.focused is w.composer
        assert "▸" not in w.text


async def test_a_thought_closes_when_it_is_over_and_opens_with_a_key() -> None:
    async with window() as w:
        await w.send("why")
        await w.until(lambda: w.engine.replies)
        id = w.engine.replies[0].id
        w.engine.tell(*pieces(id, ["[THI", "NK]because of ", "reasons"]))
        await w.until(lambda: "because of reasons" in w.text and "Thinking" in w.text)
        w.engine.tell(*told(id, "[/THINK]", "So."))
        await w.until(lambda: "So." in w.text)
        assert "because" not in w.text
        assert "Thought, 18 characters" in w.text
        assert "THINK" not in w.text
        await w.press("tab", "enter")
        await w.until(lambda: "because of reasons" in w.text)
        await w.press("enter")
        await w.until(lambda: "because of reasons" not in w.text)


async def test_a_thought_of_an_earlier_day_is_closed() -> None:
    said = [("user", "why"), ("assistant", "[THINK]hmm[/THINK]So.")]
    async with window(messages=said) as w:
        await w.until(lambda: "So." in w.text)
        assert not w.transcript.query_one(Thought).opened
        assert "hmm" not in w.text


async def test_code_is_highlighted() -> None:
    async with window() as w:
        await w.answer("code", "```python\nreturn None\n```\n")
        await w.until(lambda: "return None" in w.text)
        label = w.transcript.query_one("#code-content")
        assert len({str(span.style) for span in label.render().spans}) > 1
