"""The token view: every token is there once, marked, and a chosen alternative is sent on."""

from __future__ import annotations

import random

import pytest
from panel_facts import piece
from panel_waiting import until
from rich.cells import cell_len
from textual.app import App, ComposeResult
from textual.strip import Strip
from textual.widgets import OptionList, Static

from mlx_mistral.live.events import Alternative, Piece
from mlx_mistral.tui.panels.token_lines import TokenLines, level
from mlx_mistral.tui.panels.token_text import TokenText
from mlx_mistral.tui.panels.token_view import TokenView, alternative_line, token_note
from mlx_mistral.tui.visible import clipped, one_line, visible

HOSTILE = ["\x1b[2J", "[red]x[/]", "\x07", "界界", "e\u0301", "\u0301", "", "\u202eabc", "\ud800",
           "\x1b]8;;http://x\x07", "a\nb", "\n", "\t", " word", "x" * 50, "界" * 30]  # fmt: skip


def test_what_would_act_is_spelled_out_and_the_rest_is_left_alone() -> None:
    assert visible("a [b] é 界") == "a [b] é 界"
    assert visible("\x1b[0m\n\t\r\x00\x9b\u202e\u200b\ud800") == (
        "\\x1b[0m\\n\\t\\r\\x00\\x9b\\u202e\\u200b\\ud800"
    )
    assert visible("\U000e0041") == "\\U000e0041"
    assert one_line(" a\n\x1b[1mb\u202e\t c ") == "a [1mb c"
    for text in HOSTILE:
        assert visible(text).isprintable()
        assert one_line(text).isprintable()


@pytest.mark.parametrize("width", range(8))
def test_a_clipped_text_has_no_more_cells_than_asked_for(width: int) -> None:
    assert cell_len(clipped("界界abc", width)) <= width
    assert clipped("abc", 3) == "abc"


def test_levels_go_down_with_probability() -> None:
    assert [level(p) for p in (1.0, 0.9, 0.89, 0.5, 0.2, 0.1, 0.0)] == [
        "sure", "sure", "likely", "likely", "unsure", "unlikely", "unlikely",
    ]  # fmt: skip
    assert level(None) == "unknown"


@pytest.mark.parametrize("width", [2, 7, 80])
def test_lines_hold_every_token_once_and_none_is_too_long(width: int) -> None:
    random.seed(width)
    texts = [random.choice(HOSTILE) for _ in range(400)]
    lines = TokenLines(width)
    for text in texts:
        lines.add(text)
    shown: dict[int, str] = {}
    for line in lines.lines:
        assert sum(span.width for span in line) <= width
        for span in line:
            assert cell_len(span.text) == span.width
            assert list(shown)[-1:] in ([], [span.token], [span.token - 1])
            shown[span.token] = shown.get(span.token, "") + span.text
    assert list(shown) == list(range(400))
    for index, text in enumerate(texts):
        assert shown[index] in (visible(text), "\\u0301", "∅")
        row = lines.row_of(index)
        assert any(span.token == index for span in lines.lines[row])
        assert not row or all(span.token != index for span in lines.lines[row - 1])
        assert lines.row_of(lines.nearest(row, lines.column_of(index))) == row


def test_a_cell_finds_its_token() -> None:
    lines = TokenLines(10)
    for text in ["ab", "界", "c\n", "", "longer than a line\n", "z"]:
        lines.add(text)
    assert [lines.nearest(0, x) for x in (0, 1, 2, 3, 4, 9)] == [0, 0, 1, 1, 2, 2]
    assert lines.nearest(99, 0) == 5
    assert lines.nearest(2, 3) == 4


def test_notes_show_figures_and_no_control_characters() -> None:
    assert token_note(piece(7, "\x1b[", 0.25), 0, 2) == (
        "token 1 of 2 · id 7 · '\\x1b[' · 25%, unsure"
    )
    assert token_note(piece(7, "a"), 1, 2).endswith("probabilities were not watched")
    assert token_note(None, 0, 0) == "no token yet"
    line = alternative_line(Alternative(token=1, text="\n", probability=0.5), True)
    assert line == "→   50% " + "█" * 10 + "·" * 10 + " '\\n'"
    assert "<0.1%" in alternative_line(Alternative(token=1, text="a", probability=1e-9), False)


class Screen(App[None]):
    def __init__(self, pieces: list[Piece]) -> None:
        super().__init__()
        self._pieces = pieces
        self.asked: list[tuple[int, tuple[int, ...]]] = []
        self.closed = 0

    def compose(self) -> ComposeResult:
        yield TokenView(1, self._pieces)

    def on_token_view_continue_from(self, event: TokenView.ContinueFrom) -> None:
        self.asked.append((event.reply, event.begun))

    def on_token_view_closed(self) -> None:
        self.closed += 1

    def shown(self) -> str:
        return "\n".join(strip.text for strip in self.screen._compositor.render_strips())


WORDS = [("The", 0.95), (" [b]", 0.6), (" cat\n", 0.3), ("\x1b[2J", 0.05), ("界", None)]
REPLY = [piece(10 + index, text, p) for index, (text, p) in enumerate(WORDS)]


@pytest.mark.parametrize("size", [(80, 24), (140, 45)])
async def test_a_chosen_alternative_is_sent_with_what_was_said_before(
    size: tuple[int, int],
) -> None:
    app = Screen(REPLY)
    async with app.run_test(size=size) as pilot:
        await pilot.press("right", "right", "enter")
        assert app.query_one(OptionList).has_focus
        await pilot.press("down", "enter")
        await pilot.pause()
        assert app.asked == [(1, (10, 11, 1012))]
        await pilot.press("escape")
        assert app.query_one(TokenText).has_focus
        await pilot.press("escape")
        await pilot.pause()
        assert app.closed == 1


async def test_arrows_move_the_cursor_and_the_note_follows() -> None:
    app = Screen(REPLY)
    async with app.run_test(size=(80, 24)) as pilot:
        text = app.query_one(TokenText)
        for key, index in [("left", 0), ("right", 1), ("down", 3), ("up", 1), ("end", 4),
                           ("right", 4), ("home", 0), ("pagedown", 3), ("pageup", 0)]:  # fmt: skip
            await pilot.press(key)
            await pilot.pause()
            assert text.cursor == index, key
            note = str(app.query_one("#token-note", Static).render())
            assert note.startswith(f"token {index + 1} of 5")
        await pilot.press("end", "enter")
        assert text.has_focus, "nobody watched this token, so it has no alternatives"


async def test_markup_and_escapes_of_tokens_are_shown_as_they_are() -> None:
    app = Screen(REPLY)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("right", "right", "right")
        await pilot.pause()
        shown = app.shown()
        assert "The [b] cat\\n" in shown
        assert "\\x1b[2J界" in shown
        assert "\x1b" not in shown


@pytest.mark.parametrize("no_color", [False, True])
async def test_levels_differ_in_more_than_colour(
    no_color: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    app = Screen(REPLY)
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        strips = app.screen._compositor.render_strips()
        styles = {
            segment.text: segment.style
            for strip in strips[:2]
            for segment in strip
            if segment.style
        }
        marks = [
            (style.underline or False, style.bold or False, style.italic or False)
            for style in (styles["The"], styles[" [b]"], styles[" cat\\n"], styles["\\x1b[2J"])
        ]
        assert len(set(marks)) == 4
        assert styles["界"].reverse


async def test_a_long_reply_draws_only_what_is_in_sight(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    render_line = TokenText.render_line

    def counted(self: TokenText, y: int) -> Strip:
        drawn.append(y)
        return render_line(self, y)

    monkeypatch.setattr(TokenText, "render_line", counted)
    app = Screen([piece(n, f" w{n}", 0.5) for n in range(10_000)])
    async with app.run_test(size=(80, 24)) as pilot:
        text = app.query_one(TokenText)
        height = text.size.height
        await pilot.pause()
        drawn.clear()
        await pilot.press("end")
        await pilot.pause()
        assert text.cursor == 9_999
        assert 0 < len(drawn) <= 4 * height
        assert "w9999" in app.shown()
        drawn.clear()
        await pilot.press("left")
        await pilot.pause()
        assert len(drawn) <= 2 * height


async def test_tokens_that_come_while_it_is_open_are_laid_out_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Screen([piece(n, " word", 0.5) for n in range(5_000)])
    async with app.run_test(size=(80, 24)) as pilot:
        laid: list[str] = []
        add = TokenLines.add

        def counted(self: TokenLines, text: str) -> None:
            laid.append(text)
            add(self, text)

        monkeypatch.setattr(TokenLines, "add", counted)
        view = app.query_one(TokenView)
        for n in range(20):
            view.add(piece(n, f" new{n}", 0.5))
        view.add(piece(99, " other", 0.5, id=2))
        assert len(laid) == 20
        await pilot.press("end")
        await pilot.pause()
        assert "new19" in app.shown()
        assert "other" not in app.shown()


async def test_an_empty_reply_takes_keys_and_then_its_first_token() -> None:
    app = Screen([])
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.press("down", "up", "left", "end", "enter")
        app.query_one(TokenView).add(piece(5, "first", 0.4))
        await pilot.pause()
        assert "token 1 of 1" in app.shown()
        await pilot.press("enter", "enter")
        await pilot.pause()
        assert app.asked == [(1, (5,))]
        await pilot.resize_terminal(20, 10)
        await until(pilot, lambda: app.query_one(TokenText).size.width == 20)
        assert "first" in app.shown()


async def test_a_token_that_comes_within_a_line_is_drawn_at_once() -> None:
    app = Screen([piece(1, "one", 0.5)])
    async with app.run_test(size=(80, 24)) as pilot:
        await pilot.pause()
        app.query_one(TokenView).add(piece(2, " two", 0.5))
        await pilot.pause()
        assert "one two" in app.shown()


async def test_any_tokens_survive_a_storm_of_sizes() -> None:
    random.seed(3)
    app = Screen([piece(n, random.choice(HOSTILE), random.random()) for n in range(300)])
    async with app.run_test(size=(80, 24)) as pilot:
        for width, height in [(1, 1), (140, 45), (3, 30), (20, 2), (80, 24)]:
            await pilot.resize_terminal(width, height)
            await pilot.press(random.choice(["down", "end", "pageup", "right"]))
        assert all(line.isprintable() for line in app.shown().split("\n"))
        assert not {"\x1b", "\x07", "\u202e"} & set(app.shown())
