"""What a row of the file is in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .codec import Setting, parse, settings_of, statistics_of, token_ids_of
from .tree import Message

SESSION = (
    "SELECT id, title, model, settings, created, updated, deleted, leaf, "
    "(SELECT count(*) FROM messages WHERE session = sessions.id) FROM sessions"
)
MESSAGE = "SELECT id, parent, role, content, created, complete, statistics, token_ids FROM messages"


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation without its messages."""

    id: int
    title: str
    """Empty until a first message gives it one."""
    model: str
    settings: Mapping[str, Setting]
    created: float
    updated: float
    """Seconds since 1970, UTC, as are the other times."""
    deleted: float | None
    leaf: int | None
    """Where it was read last."""
    n_messages: int
    """In all branches."""


def session(row: tuple[Any, ...], path: Path) -> Session:
    """A row of `SESSION`. Raises: SessionError: its settings are damaged."""
    id, title, model, settings, created, updated, deleted, leaf, n_messages = row
    where = f"{path}: conversation {id}"
    return Session(
        id=id,
        title=title,
        model=model,
        settings=settings_of(parse(settings.encode(), where), where),
        created=created,
        updated=updated,
        deleted=deleted,
        leaf=leaf,
        n_messages=n_messages,
    )


def message(row: tuple[Any, ...], path: Path) -> Message:
    """A row of `MESSAGE`. Raises: SessionError: its statistics are damaged."""
    id, parent, role, content, created, complete, statistics, token_ids = row
    where = f"{path}: message {id}"
    return Message(
        id=id,
        parent=parent,
        role=role,
        content=content,
        created=created,
        complete=bool(complete),
        statistics=statistics and statistics_of(parse(statistics.encode(), where), where),
        token_ids=token_ids_of(token_ids),
    )
