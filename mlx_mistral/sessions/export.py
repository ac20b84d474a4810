"""Conversations as files: Markdown to read, JSON to take over elsewhere."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlx_mistral.errors import CheckpointError, SessionError
from mlx_mistral.files.untrusted import open_regular, shown

from .codec import (
    MAX_TIME,
    integer,
    keys,
    number,
    parse,
    settings_of,
    statistics_of,
    text,
    wrong,
)
from .plain_text import acts, one_line
from .rows import Session
from .tree import ROLES, Message, Tree

FORMAT = "mlx-mistral conversation"
VERSION = 2
"""2: what of a prompt was reused is counted. Files of version 1 are read as well."""
MAX_BYTES = 64 << 20
"""Of a file that is imported."""
MAX_MESSAGES = 100_000
_KEYS = ("format", "version", "title", "model", "settings", "created", "updated", "leaf")
_MESSAGE_KEYS = ("id", "parent", "role", "content", "created", "complete", "statistics")


def export_markdown(session: Session, tree: Tree) -> str:
    """The branch that is being read. Control characters of a model's text are left out."""
    began = datetime.fromtimestamp(session.created, UTC)
    parts = [f"# {one_line(session.title) or 'Conversation'}"]
    parts.append(f"{one_line(session.model)} {began:%Y-%m-%d %H:%M} UTC".strip())
    if system := session.settings.get("system"):
        parts.append(f"## System\n\n{_readable(str(system))}")
    for message in tree.path():
        parts.append(f"## {message.role.capitalize()}\n\n{_readable(message.content)}")
        if not message.complete:
            parts.append("*This reply was cut off.*")
    return "\n\n".join(parts) + "\n"


def export_json(session: Session, tree: Tree) -> str:
    """All branches. ASCII, so that no control character acts where the file is shown.

    Messages are numbered from 1 in the order in which they were made. Token ids stay here: they
    mean something to one tokenizer only.
    """
    numbers: dict[int | None, int | None] = {None: None}
    for number_, id in enumerate(sorted(tree.messages), start=1):
        numbers[id] = number_
    entry = {
        "format": FORMAT,
        "version": VERSION,
        "title": session.title,
        "model": session.model,
        "settings": dict(session.settings),
        "created": session.created,
        "updated": session.updated,
        "leaf": numbers[tree.leaf],
        "messages": [
            {
                **{key: value for key, value in asdict(message).items() if key in _MESSAGE_KEYS},
                "id": numbers[id],
                "parent": numbers[message.parent],
            }
            for id, message in sorted(tree.messages.items())
        ],
    }
    return json.dumps(entry, indent=1, allow_nan=False) + "\n"


def import_file(path: Path) -> tuple[Session, Tree]:
    """What `export_json` wrote to a file, for `Store.insert`.

    Raises: SessionError: as `import_json`, or there is no file that can be read.
    """
    try:
        file, size = open_regular(path)
    except CheckpointError:
        raise SessionError(
            f"{path} is no file that can be read; name one that was exported as JSON"
        ) from None
    with file:
        return import_json(file.read(min(size, MAX_BYTES) + 1), str(path))


def import_json(raw: bytes, where: str) -> tuple[Session, Tree]:
    """What `export_json` wrote. `where` is only named in errors.

    Raises: SessionError: not JSON, too large, of another format or a newer version; keys are
        missing, unknown or of wrong types; a message follows no earlier one, so that there are
        no cycles; ids occur twice; the leaf is none.
    """
    if len(raw) > MAX_BYTES:
        raise SessionError(f"{where} has more than {MAX_BYTES >> 20} MB; split the conversation")
    entry = parse(raw, where)
    if entry.get("format") != FORMAT:
        raise SessionError(f"{where} is no exported conversation; name one exported as JSON")
    version = entry.get("version")
    if type(version) is not int or not 1 <= version <= VERSION:
        raise SessionError(
            f"{where} has version {shown(version)} of the format, this program knows "
            f"{VERSION}; update mlx-mistral"
        )
    keys(entry, where, (*_KEYS, "messages"))
    listed = entry["messages"]
    if not isinstance(listed, list) or len(listed) > MAX_MESSAGES:
        raise wrong(where, "messages", f"are no list of at most {MAX_MESSAGES}", listed)
    messages: dict[int, Message] = {}
    for position, item in enumerate(listed, start=1):
        message = _message(item, f"{where}: message {position}")
        if message.id in messages:
            raise wrong(where, "the message id", "occurs twice", message.id)
        messages[message.id] = message
    leaf = None if entry["leaf"] is None else integer(entry["leaf"], where, "leaf")
    try:
        tree = Tree(messages=messages, leaf=leaf)
    except SessionError as error:
        raise SessionError(f"{where}: {error}") from None
    session = Session(
        id=0,
        title=text(entry["title"], where, "title"),
        model=text(entry["model"], where, "model"),
        settings=settings_of(entry["settings"], where),
        created=number(entry["created"], where, "created", 0, MAX_TIME),
        updated=number(entry["updated"], where, "updated", 0, MAX_TIME),
        deleted=None,
        leaf=leaf,
        n_messages=len(messages),
    )
    return session, tree


def _message(item: Any, where: str) -> Message:
    entry = keys(item, where, _MESSAGE_KEYS)
    parent, statistics = entry["parent"], entry["statistics"]
    if entry["role"] not in ROLES:
        raise wrong(where, "role", f"is none of {', '.join(ROLES)}", entry["role"])
    if not isinstance(entry["complete"], bool):
        raise wrong(where, "complete", "is neither true nor false", entry["complete"])
    return Message(
        id=integer(entry["id"], where, "id"),
        parent=None if parent is None else integer(parent, where, "parent"),
        role=entry["role"],
        content=text(entry["content"], where, "content", MAX_BYTES),
        created=number(entry["created"], where, "created", 0, MAX_TIME),
        complete=entry["complete"],
        statistics=None if statistics is None else statistics_of(statistics, where),
    )


def _readable(content: str) -> str:
    return "".join(char for char in content if char in "\n\t" or not acts(char))
