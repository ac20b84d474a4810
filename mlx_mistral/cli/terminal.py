"""What goes to stdout and stderr: data to one, progress and statistics to the other."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_ERASE_LINE = "\r\x1b[K"
_DIM = "\x1b[2m{}\x1b[0m"


def printable(text: str) -> str:
    """Without the characters that move a cursor, set a title or worse; newline and tab stay.

    A model's text is whatever a stranger's weights make of a stranger's prompt.
    """
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """Without line breaks and control characters."""
    return printable(" ".join(text.split()))


class ReplyWriter:
    """Writes a reply to stdout as it comes, ended by one line break even where it is empty.

    A terminal gets printable text only; a pipe or file gets every byte. Leaving by an exception
    ends a line that was begun and no other. Where the reader has gone, that is not said twice.
    """

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._last = ""

    def __enter__(self) -> ReplyWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or (self._last and not issubclass(kind, BrokenPipeError)):
            self._end()

    def write(self, text: str) -> None:
        if text:
            sys.stdout.write(printable(text) if self._is_terminal else text)
            sys.stdout.flush()
            self._last = text[-1]

    def _end(self) -> None:
        if self._last != "\n":
            sys.stdout.write("\n")
        sys.stdout.flush()


class Progress:
    """One line on stderr that is overwritten; only where a person looks at it."""

    def __init__(self, *, quiet: bool) -> None:
        self._shows = not quiet and _has_escapes()
        self._stands = False

    def show(self, text: str) -> None:
        if self._shows:
            # A line that wraps could not be erased.
            sys.stderr.write(_ERASE_LINE + one_line(text)[: _columns() - 1])
            sys.stderr.flush()
            self._stands = True

    def prefill(self, done: int, total: int) -> None:
        """Fits `stream_generate(progress=…)`. Prompts of one chunk are over before they show."""
        if 0 < done < total:
            self.show(f"reading the prompt: {done} of {total} tokens")
        else:
            self.clear()

    def clear(self) -> None:
        if self._stands:
            sys.stderr.write(_ERASE_LINE)
            sys.stderr.flush()
            self._stands = False


def note(text: str, *, quiet: bool = False) -> None:
    """A line of statistics or a remark, on stderr; dimmed where a person looks at it."""
    if not quiet:
        sys.stdout.flush()
        dims = _has_escapes() and not os.environ.get("NO_COLOR")
        line = one_line(text)
        print(_DIM.format(line) if dims else line, file=sys.stderr)


def _columns() -> int:
    """How wide the terminal is that stderr shows; it may be resized at any time."""
    try:
        return max(2, os.get_terminal_size(sys.stderr.fileno()).columns)
    except (OSError, ValueError):
        return 80


def _has_escapes() -> bool:
    """Whether stderr is a terminal that knows escape sequences."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def write_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, and nothing else there."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    print(printable(text) if sys.stdout.isatty() else text)


def write_lines(lines: list[str]) -> None:
    """Finished lines on stdout."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
