"""Conversations to files and back."""

from __future__ import annotations

from pathlib import Path

from mlx_mistral.errors import SessionError
from mlx_mistral.sessions.export import export_json, export_markdown, import_file
from mlx_mistral.sessions.rows import Session
from mlx_mistral.sessions.store import Store


def exported(store: Store, id: int, path: str) -> str:
    """Writes a session to a file that is not there yet: JSON where its name says so, or Markdown.

    Returns: a line that says where. Raises: SessionError, OSError: it cannot be read or written.
    """
    session, tree = store.session(id), store.tree(id)
    target = _path(path or f"conversation-{id}.md")
    write = export_json if target.suffix == ".json" else export_markdown
    try:
        with target.open("x", encoding="utf-8") as file:
            file.write(write(session, tree))
    except FileExistsError:
        raise SessionError(f"{target} is there already; name another file") from None
    return f"written to {target.absolute()}"


def imported(store: Store, path: str) -> Session:
    """A copy of a session that was exported as JSON, as a new session.

    Raises: SessionError: the file is none, or the store cannot be written.
    """
    return store.insert(*import_file(_path(path)))


def _path(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise SessionError(f"{path} is in no folder that is known; write the whole path") from None
