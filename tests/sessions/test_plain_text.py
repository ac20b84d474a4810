"""Titles and snippets are one line of plain text, and hits are where the words are."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_mistral.sessions.plain_text import (
    MAX_SNIPPET,
    MAX_TITLE,
    one_line,
    snippet,
    storable,
    title_of,
    words_of,
)

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=300)


def is_one_plain_line(text: str) -> bool:
    kinds = {unicodedata.category(char) for char in text}
    return not kinds & {"Cc", "Cs", "Zl", "Zp"} and not set(text) & set("\u202e\u2066\u200f")


@given(ANY_TEXT)
def test_whatever_a_text_holds_its_title_is_one_line(text: str) -> None:
    title = title_of(text)
    assert is_one_plain_line(title)
    assert len(title) <= MAX_TITLE
    assert title == title.strip()


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("", ""),
        (" \n\t", ""),
        ("\n\n  first \x1b[31m line\nsecond", "first [31m line"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("ab " * 20, ("ab " * 20).strip()),
        ("a" * 59 + " b", "a" * 59 + "…"),
        ("one two " + "a" * 60, "one two…"),
    ],
)
def test_a_title_is_the_first_line_cut_between_words(text: str, title: str) -> None:
    assert title_of(text) == title


@given(ANY_TEXT)
def test_a_line_is_as_long_as_its_text(text: str) -> None:
    assert len(one_line(text)) == len(text)
    assert is_one_plain_line(one_line(text))


@given(ANY_TEXT)
def test_what_is_storable_is_utf_8(text: str) -> None:
    stored = storable(text)
    assert len(stored) == len(text)
    assert stored.encode().decode() == stored
    assert stored == text or any("\ud800" <= char <= "\udfff" for char in text)


@pytest.mark.parametrize(
    "turn", "\u061c\u200e\u200f\u202a\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029"
)
def test_what_turns_the_direction_or_ends_a_line_is_a_space(turn: str) -> None:
    assert one_line(f"a{turn}b") == "a b"


def test_a_hit_ends_where_its_snippet_ends() -> None:
    found = snippet("x " + "a" * 300, ["a" * 200], at_word_begin=True)
    assert found.hits == ((2, MAX_SNIPPET),)


def test_an_emoji_of_several_characters_stays_whole() -> None:
    assert one_line("👩\u200d🚀") == "👩\u200d🚀"


@given(
    st.text("ab .\n\x1b", max_size=400),
    st.lists(st.text("ab", min_size=1, max_size=3), max_size=2),
    st.booleans(),
)
def test_hits_are_the_needles_and_none_is_missing_from_the_snippet(
    text: str, needles: list[str], at_word_begin: bool
) -> None:
    found = snippet(text, needles, at_word_begin=at_word_begin)
    assert is_one_plain_line(found.text)
    assert len(found.text) <= MAX_SNIPPET + 2
    assert found.text.strip("…") in one_line(text)
    end = 0
    for first, last in found.hits:
        assert end <= first < last <= len(found.text)
        assert any(needle.startswith(found.text[first:last]) for needle in needles)
        assert not (at_word_begin and found.text[first - 1 : first].isalnum())
        end = last
    everywhere = [
        at
        for needle in needles
        for at in range(len(text))
        if text.startswith(needle, at) and not (at_word_begin and at and text[at - 1].isalnum())
    ]
    assert bool(found.hits) == bool(everywhere)
    if everywhere:
        first, last = found.hits[0]
        assert one_line(text)[min(everywhere) :].startswith(found.text[first:last])


@pytest.mark.parametrize(
    ("text", "needle", "hit"),
    [
        ("Le CAFÉ noir", "cafe", "CAFÉ"),
        ("le cafe\u0301 noir", "café", "cafe"),
        ("straße", "STRASSE", ""),
        ("[bold]x[/bold]", "bold", "bold"),
        ("xbold bold", "bo", "bo"),
        ("İstanbul", "istanbul", "İstanbul"),
        ("un e\u0301te\u0301", "ete", "e\u0301te"),
    ],
)
def test_case_and_accents_do_not_matter(text: str, needle: str, hit: str) -> None:
    found = snippet(text, [needle], at_word_begin=True)
    assert "".join(found.text[first:last] for first, last in found.hits[:1]) == hit


def test_a_snippet_begins_shortly_before_its_first_hit() -> None:
    found = snippet("a" * 500 + " needle " + "b" * 500, ["needle"], at_word_begin=True)
    assert found.text.startswith("…aaa")
    assert found.text.endswith("bbb…")
    ((first, last),) = found.hits
    assert found.text[first:last] == "needle"
    assert first == 31


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", ()),
        ("->  +", ()),
        ("C++ foo_bar", ("c", "foo", "bar")),
        ('"É" OR*', ("e", "or")),
        ("e\u0301t\u00e9", ("ete",)),
        ("日本", ("日本",)),
    ],
)
def test_words_are_letters_and_digits(query: str, words: tuple[str, ...]) -> None:
    assert words_of(query) == words
