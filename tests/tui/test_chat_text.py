"""What is done to text before it is shown, and other parts that know no screen."""

from __future__ import annotations

import re
import unicodedata
from ast import literal_eval
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from mlx_mistral.tui.chat.clean import Cleaner, clean
from mlx_mistral.tui.chat.code_blocks import code_blocks
from mlx_mistral.tui.chat.history import History
from mlx_mistral.tui.chat.queue import Pending, Queue
from mlx_mistral.tui.chat.segments import HARD_LIMIT, Segments
from mlx_mistral.tui.chat.thinking import Part, ThinkingSplitter, split
from mlx_mistral.tui.visible import clipped, one_line, visible

HOSTILE = st.text(
    st.sampled_from("ab\n\t \x1b[]()0;31mKhHJ\x07\x9b\x9d\x9c\r\x00\x7f\u202e\u2028\ud800é\\"),
    max_size=60,
)


def cut(text: str, places: list[int]) -> list[str]:
    """The text in pieces."""
    at = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(at)]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("plain\n\ttext", "plain\n\ttext"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hhome", "home"),
        ("\x1b]0;title\x07a", "a"),
        ("\x1b]8;;http://x.test\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("\x1bPdevice\x1b\\a", "a"),
        ("\x1b]52;c;aGk=\nnext", "]52;c;aGk=\nnext"),  # never ended: it hides no line
        ("a\x00b\x08c\x7fd\x85e", "abcd\ne"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("\u202egnp.exe\u202c", "gnp.exe"),
        ("half \ud83d", "half \ufffd"),
        ("שלום é e\u0301 👩‍🚀 日本", "שלום é e\u0301 👩‍🚀 日本"),
        ("[red]markup[/red]", "[red]markup[/red]"),
    ],
)
def test_what_a_terminal_would_act_on_is_gone(text: str, left: str) -> None:
    assert clean(text) == left


@given(HOSTILE)
def test_no_control_character_is_left(text: str) -> None:
    left = clean(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e]", left)


@given(HOSTILE, st.lists(st.integers(0, 60), max_size=5))
def test_where_a_text_is_cut_makes_no_difference(text: str, places: list[int]) -> None:
    cleaner = Cleaner()
    left = "".join(cleaner.add(piece) for piece in cut(text, places)) + cleaner.finish()
    assert left == clean(text)


ANY = st.text(st.characters(), max_size=40) | HOSTILE
"""Unicode's characters, halves of surrogate pairs among them."""


@given(ANY)
def test_a_clean_text_is_printed_and_written_as_it_is(text: str) -> None:
    left = clean(text)
    assert clean(left) == left
    assert left.encode().decode() == left
    assert {c for c in left if unicodedata.category(c) in ("Cc", "Cs")} <= {"\n", "\t"}


@given(ANY)
def test_what_is_made_visible_can_be_read_back_and_has_no_hidden_letter(text: str) -> None:
    shown = visible(text)
    assert not {c for c in shown if unicodedata.category(c)[0] == "C"}
    assert visible(shown) == shown
    if "\\" not in text:
        assert literal_eval(f"'{shown.replace(chr(39), chr(92) + chr(39))}'") == text


@given(ANY, st.integers(0, 20))
def test_a_line_is_one_and_is_cut_to_its_cells(text: str, width: int) -> None:
    line = one_line(text)
    assert not {c for c in line if unicodedata.category(c)[0] == "C"}
    assert len(line.splitlines()) <= 1
    assert cell_len(clipped(line, width)) <= width


def test_a_sequence_that_never_ends_hides_nothing_for_long() -> None:
    cleaner = Cleaner()
    shown = "".join(cleaner.add("\x1b]" + "a" * 100) for _ in range(20))
    assert len(shown) > 1000


@given(
    st.lists(st.sampled_from(["[THINK]", "[/THINK]", "[", "a", "TH", "\n"]), max_size=12),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_thoughts_are_told_apart_wherever_the_text_is_cut(
    words: list[str], places: list[int]
) -> None:
    text = "".join(words)
    splitter = ThinkingSplitter()
    parts = [part for piece in cut(text, places) for part in splitter.add(piece)]
    parts += splitter.finish()
    assert by_letter(parts) == by_letter(split(text)) == slowly(text)


def by_letter(parts: list[Part]) -> list[tuple[bool, str]]:
    return [(part.thought, letter) for part in parts for letter in part.text]


def slowly(text: str) -> list[tuple[bool, str]]:
    """One letter after another, as the marks are defined."""
    thought, at, letters = False, 0, []
    while at < len(text):
        mark = "[/THINK]" if thought else "[THINK]"
        if text.startswith(mark, at):
            thought, at = not thought, at + len(mark)
        else:
            letters.append((thought, text[at]))
            at += 1
    return letters


@given(
    st.lists(
        st.sampled_from(
            ["word " * 300, "\n", "\n\n", "```\n", "```python\n", "x = 1\n" * 200, "~"]
        ),
        max_size=30,
    ),
    st.lists(st.integers(0, 40_000), max_size=8),
)
def test_segments_are_short_and_lose_no_letter(words: list[str], places: list[int]) -> None:
    text = "".join(words)
    segments, made = Segments(), [""]
    for piece in cut(text, places):
        for fresh, added in segments.add(piece):
            made.append("") if fresh else None
            made[-1] += added
    assert all(len(segment) <= 2 * HARD_LIMIT for segment in made)
    fences = re.compile(r"^(```\w*|~~~)?\n", re.MULTILINE)
    assert fences.sub("", "".join(made)).replace("\n", "") == fences.sub("", text).replace("\n", "")


def test_a_code_block_that_is_cut_goes_on_as_code() -> None:
    code = "x = 1\n" * 4000
    segments, made = Segments(), [""]
    for fresh, added in segments.add(f"```python\n{code}```\n"):
        made.append("") if fresh else None
        made[-1] += added
    assert len(made) > 2
    assert "".join(block for segment in made for block in code_blocks(segment)) == code
    assert all(segment.startswith("```python\n") for segment in made)


def test_code_blocks_are_found() -> None:
    text = "a\n```python\nx\n\ny\n```\nb\n~~~\n```\n~~~\n````\n```\n````\n```\nopen"
    assert code_blocks(text) == ["x\n\ny\n", "```\n", "```\n", "open"]
    assert code_blocks("no `code` here") == []


def test_a_queue_is_held_until_it_is_let_go() -> None:
    queue = Queue()
    for text in "abc":
        queue.add(Pending(text=text))
    assert queue.next() == Pending(text="a")
    queue.held = True
    assert queue.next() is None
    assert queue.take_back() == Pending(text="c")
    assert queue.take_back() == Pending(text="b")
    assert queue.take_back() is None
    assert not queue.held


def test_a_history_keeps_the_draft() -> None:
    history = History(["one"])
    history.add("two")
    history.add("two")
    assert [history.earlier("draft"), history.earlier("two"), history.earlier("one")] == [
        "two",
        "one",
        None,
    ]
    assert [history.later(), history.later(), history.later()] == ["two", "draft", None]
