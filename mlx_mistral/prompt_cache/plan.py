"""Where a text goes among those that are held: what it shares, and what it takes the place of."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from . import index
from .entry import Entry, Ids

MIN_TOKENS = 64
"""A shorter beginning is not worth depending on another entry for."""
GROWTH = 2
"""A file is written again with what follows it while it is at most so many times as long, so that
a conversation saved after each reply is in few files, and no token is written often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A new entry: what it builds on, from which token on it holds a text itself."""

    base: int | None
    start: int
    replaces: tuple[int, ...] = ()
    """Entries that it holds all of."""


def segment(rows: sqlite3.Connection, key: str, ids: Ids, most: int) -> Placement | None:
    """For a text of which every key is in place; None: it is held already.

    most: tokens that one file may hold.
    """
    held = index.entries(rows, "key = ? AND NOT whole", key)
    by_id = {each.id: each for each in held}
    base = max(held, key=lambda each: each.shares(ids), default=None)
    start = base.shares(ids) if base else 0
    if start == len(ids):
        return None
    if start < MIN_TOKENS:
        return Placement(base=None, start=0, replaces=_covered(rows, held, ids, most))
    while base and start <= base.start:
        base = by_id.get(base.base or 0)
    replaces: list[int] = []
    while base and _is_replaced(rows, base, start, len(ids), most, replaces):
        replaces.append(base.id)
        start, base = base.start, by_id.get(base.base or 0)
    return Placement(base=base.id if base else None, start=start, replaces=tuple(replaces))


def whole(rows: sqlite3.Connection, key: str, ids: Ids) -> Placement | None:
    """For a text whose ring has wrapped; None: it is held already.

    Of the texts that it goes on from, the last is kept: its end is where an edited last message
    begins.
    """
    held = index.entries(rows, "key = ? AND whole", key)
    before = sorted((each for each in held if each.shares(ids) == len(each)), key=len)
    if before and len(before[-1]) == len(ids):
        return None
    return Placement(base=None, start=0, replaces=tuple(each.id for each in before[:-1]))


def _covered(rows: sqlite3.Connection, held: list[Entry], ids: Ids, most: int) -> tuple[int, ...]:
    """Short texts that a new first file holds all of."""
    return tuple(
        each.id
        for each in held
        if each.base is None
        and each.shares(ids) == len(each) <= most
        and not index.has_followers(rows, each.id)
    )


def _is_replaced(
    rows: sqlite3.Connection, base: Entry, start: int, end: int, most: int, replaced: list[int]
) -> bool:
    own, new = len(base) - base.start, end - start
    return (
        start == len(base)
        and end - base.start <= most
        and own <= GROWTH * new
        and not index.has_followers(rows, base.id, but=replaced[-1] if replaced else 0)
    )
