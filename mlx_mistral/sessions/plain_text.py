"""What a conversation's text becomes where a line of it is shown: one line, never markup."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

MAX_TITLE = 60
MAX_SNIPPET = 120
BEFORE_HIT = 30
"""Characters of a snippet before its first hit, at most."""

_HALVES = re.compile("[\ud800-\udfff]")
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that change the direction of those around them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippet:
    """A line of plain text, and the hits in it as (begin, end) positions in ascending order."""

    text: str
    hits: tuple[tuple[int, int], ...]


def storable(text: str) -> str:
    """The text with U+FFFD for halves of surrogate pairs, which no UTF-8 and no SQLite holds."""
    return _HALVES.sub("\ufffd", text)


def acts(char: str) -> bool:
    """Whether a character does something to a terminal or to the text around it."""
    return char in _TURNS or unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def one_line(text: str) -> str:
    """As long as `text`, with a space for each character that acts, line ends included."""
    return "".join(" " if acts(char) else char for char in text)


def title_of(message: str) -> str:
    """A title made from a message: its first line with words in it, cut between words."""
    lines = (" ".join(one_line(line).split()) for line in message.splitlines())
    line = next(filter(None, lines), "")
    if len(line) <= MAX_TITLE:
        return line
    cut = line[:MAX_TITLE]  # one more than fits beside the ellipsis: it may be the space
    return f"{cut[: cut.rindex(' ')] if ' ' in cut else cut[:-1]}…"


def words_of(query: str) -> tuple[str, ...]:
    """The runs of letters and digits of a query, without case and accents."""
    folded, _ = _folded(query)
    return tuple("".join(c if c.isalnum() else " " for c in folded).split())


def snippet(text: str, needles: Iterable[str], *, at_word_begin: bool) -> Snippet:
    """The part of a text around the first of the needles, whatever their case and accents.

    at_word_begin: needles count only where a word begins.
    """
    hits = _hits(text, needles, at_word_begin)
    begin = max(0, hits[0][0] - BEFORE_HIT) if hits else 0
    begin = max(0, min(begin, len(text) - MAX_SNIPPET))
    end = min(len(text), begin + MAX_SNIPPET)
    before, after = "…" if begin else "", "…" if end < len(text) else ""
    shift = len(before) - begin
    return Snippet(
        text=f"{before}{one_line(text[begin:end])}{after}",
        hits=tuple((first + shift, min(last, end) + shift) for first, last in hits if first < end),
    )


def _hits(text: str, needles: Iterable[str], at_word_begin: bool) -> list[tuple[int, int]]:
    """Where the needles stand, without those that overlap an earlier one."""
    folded, origins = _folded(text)
    found: set[tuple[int, int]] = set()
    for needle in filter(None, (_folded(needle)[0] for needle in needles)):
        at = folded.find(needle)
        while at >= 0:
            if not (at_word_begin and at and folded[at - 1].isalnum()):
                found.add((origins[at], origins[at + len(needle) - 1] + 1))
            at = folded.find(needle, at + 1)
    hits: list[tuple[int, int]] = []
    for first, last in sorted(found):
        if not hits or first >= hits[-1][1]:
            hits.append((first, last))
    return hits


def _folded(text: str) -> tuple[str, list[int]]:
    """The text without case and accents, and for each character the position it comes from."""
    if text.isascii():
        return text.lower(), list(range(len(text)))
    folded: list[str] = []
    origins: list[int] = []
    for position, char in enumerate(text):
        for part in unicodedata.normalize("NFD", char.lower()):
            if unicodedata.category(part) != "Mn":
                folded.append(part)
                origins.append(position)
    return "".join(folded), origins
