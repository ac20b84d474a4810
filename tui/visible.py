"""Text as it may stand in a terminal: what would act there, or hide, is spelled out."""

from __future__ import annotations

import unicodedata

from rich.cells import cell_len, set_cell_size

_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_ACTING = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode's categories of what has no shape: controls, directions, halves of letters."""


def visible(text: str) -> str:
    """The same text with every control and invisible character as an escape, as in Python."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_spelled, text))


def spelled_out(text: str) -> str:
    """Every letter as an escape: for marks that have no cell of their own."""
    return "".join(map(_escape, text))


def one_line(text: str) -> str:
    """The same text on one line: white space is one space, what would act is left out."""
    spaced = " ".join(text.split())
    return "".join(letter for letter in spaced if unicodedata.category(letter) not in _ACTING)


def clipped(text: str, width: int) -> str:
    """At most `width` cells of a text, with an ellipsis where some of it is missing."""
    if cell_len(text) <= width:
        return text
    if width < 1:
        return ""
    return set_cell_size(text, width - 1).rstrip() + "…"


def _spelled(letter: str) -> str:
    if letter in _SHORT:
        return _SHORT[letter]
    if unicodedata.category(letter) not in _ACTING:
        return letter
    return _escape(letter)


def _escape(letter: str) -> str:
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
