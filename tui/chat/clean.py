"""Text of a model or of a clipboard without anything that a terminal would act on."""

from __future__ import annotations

import re

_LINE_ENDS = re.compile("\r\n|[\r\x85\u2028\u2029]")
_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x9c|\x1b\\)"  # OSC, DCS…
    r"|\x1b[ -/]*[0-OQ-WYZ\\`-~]"  # the short ones
)
_BEGUN = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]P^_X]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*\x1b?"
    r"|\x1b[ -/]*|\r)\Z"
)
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Control characters, and those that turn the direction of what is not theirs."""
_HALF_LETTERS = re.compile("[\ud800-\udfff]")
_LONGEST_SEQUENCE = 512
"""An escape sequence that is still open after so many characters hides text: it is none."""


def clean(text: str) -> str:
    """The text alone: newlines and tabs stay, escape sequences and controls go."""
    lines = _LINE_ENDS.sub("\n", text)
    bare = _ACTING.sub("", _SEQUENCE.sub("", lines))
    return _HALF_LETTERS.sub("\N{REPLACEMENT CHARACTER}", bare)


class Cleaner:
    """`clean` for a text that comes in pieces, wherever they are cut."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, text: str) -> str:
        """What can be shown now; the beginning of an escape sequence waits for its end."""
        whole = self._held + text
        begun = _BEGUN.search(whole, max(0, len(whole) - _LONGEST_SEQUENCE))
        self._held = whole[begun.start() :] if begun else ""
        return clean(whole[: begun.start()] if begun else whole)

    def finish(self) -> str:
        """What was held back: nothing of it was an escape sequence after all."""
        held, self._held = self._held, ""
        return clean(held)
