"""What could stand where the cursor of the composer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .attach import mention_at, quoted
from .parse import find, is_command
from .table import COMMANDS, Kind

MAX_CANDIDATES = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """Text to put in place of `begin` to `end`, and what to say of it."""

    text: str
    begin: int
    end: int
    note: str = ""


Names = Callable[[str], Sequence[str]]
"""From what is written so far to what it may become."""


def complete(text: str, cursor: int, *, models: Names, paths: Names) -> list[Candidate]:
    """The candidates at a cursor, the likeliest first: commands, arguments, attachments.

    models: names of models that contain the text. paths: paths that begin with it; a folder
    ends with a slash.
    """
    cursor = min(max(cursor, 0), len(text))
    if is_command(text):
        head, space, argument = text[:cursor].partition(" ")
        if "\n" in head:
            return []
        if not space:
            return _commands(head[1:], len(head), 0)
        return _arguments(head[1:], argument.lstrip(), cursor, models, paths)
    mention = mention_at(text, cursor)
    if mention is None:
        return []
    found = paths(mention.path)[:MAX_CANDIDATES]
    return [Candidate(text=f"@{quoted(path)}", begin=mention.begin, end=cursor) for path in found]


def _commands(begun: str, end: int, begin: int) -> list[Candidate]:
    begun = begun.lower()
    return [
        Candidate(text=f"/{spec.name}" + (" " if spec.kind is not Kind.NOTHING else ""),
                  begin=begin, end=end, note=spec.does)
        for spec in COMMANDS
        if spec.name.startswith(begun)
    ]  # fmt: skip


def _arguments(
    name: str, argument: str, cursor: int, models: Names, paths: Names
) -> list[Candidate]:
    spec = find(name)
    begin = cursor - len(argument)
    if spec is None or "\n" in argument:
        return []
    match spec.kind:
        case Kind.MODEL:
            found = models(argument)
        case Kind.PATH:
            found = paths(argument)
        case Kind.COMMAND:
            return [
                Candidate(text=other.name, begin=begin, end=cursor, note=other.does)
                for other in COMMANDS
                if other.name.startswith(argument.removeprefix("/").lower())
            ]
        case _ if spec.choices:
            found = [str(each) for each in spec.choices if str(each).startswith(argument)]
        case _ if spec.off and spec.off.startswith(argument.lower()):
            found = [spec.off]
        case _:
            return []
    return [Candidate(text=one, begin=begin, end=cursor) for one in found[:MAX_CANDIDATES]]
