"""What a list of conversations shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.cells import cell_len
from textual.content import Content

from mlx_mistral.sessions.plain_text import Snippet
from mlx_mistral.sessions.rows import Session
from mlx_mistral.sessions.search import Hit
from mlx_mistral.tui.visible import clipped, one_line

_STEPS = ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h"), (31 * 86400, 86400, "d"))
_NO_TITLE = "(no title yet)"


class SessionList(Protocol):
    """What of `mlx_mistral.sessions.store.Store` a list needs; any raises SessionError."""

    def sessions(self, limit: int = -1) -> Sequence[Session]: ...
    def search(self, query: str, limit: int = 50) -> Sequence[Hit]: ...
    def rename(self, id: int, title: str) -> Session: ...
    def delete(self, id: int) -> Session: ...
    def restore(self, id: int) -> Session: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A session, or a message that a search found in one."""

    session: int
    title: str
    note: str
    message: int | None = None
    snippet: Snippet | None = None


def listed(store: SessionList, query: str, now: float) -> list[Row]:
    """All sessions; with a query those whose title contains it, then each message found."""
    query = query.strip()
    sessions = store.sessions()
    if not query:
        return [_of_session(session, now) for session in sessions]
    named = [session for session in sessions if query.lower() in session.title.lower()]
    return [
        *(_of_session(session, now) for session in named),
        *(_of_hit(hit, now) for hit in store.search(query)),
    ]


def row_content(row: Row, width: int) -> Content:
    """One line, or two with a snippet whose hits are underlined and in reverse."""
    title = one_line(row.title) or _NO_TITLE
    room = max(width - cell_len(row.note) - 1, 1)
    title = clipped(title, room)
    head = f"{title}{' ' * (room - cell_len(title) + 1)}{row.note}"
    if row.snippet is None:
        return Content(clipped(head, width))
    text = Content(f"  {row.snippet.text}")
    for begin, end in row.snippet.hits:
        text = text.stylize("reverse underline", begin + 2, end + 2)
    return Content("\n").join([Content(clipped(head, width)), text.truncate(width, ellipsis=True)])


def age(seconds: float) -> str:
    """How long ago, in one unit."""
    for below, unit_seconds, unit in _STEPS:
        if seconds < below:
            return f"{max(int(seconds), 0) // unit_seconds} {unit}"
    days = int(seconds // 86400)
    return f"{days // 365} y" if days >= 365 else f"{days // 30} mo"


def _of_session(session: Session, now: float) -> Row:
    messages = "1 message" if session.n_messages == 1 else f"{session.n_messages} messages"
    model = clipped(one_line(session.model.rpartition("/")[2]), 20)
    parts = [part for part in (model, messages, age(now - session.updated)) if part]
    return Row(session=session.id, title=session.title, note=" · ".join(parts))


def _of_hit(hit: Hit, now: float) -> Row:
    return Row(
        session=hit.session,
        title=hit.title,
        note=f"{one_line(hit.role)} · {age(now - hit.created)}",
        message=hit.message,
        snippet=hit.snippet,
    )
