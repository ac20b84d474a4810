"""`@path` in a message: files that go along as text."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.tui.visible import clipped, visible

MAX_BYTES = 1_000_000
"""Of one file: about 250,000 tokens, more than any context here takes."""
MAX_LISTED = 5000
"""Names of a folder that completion looks at."""

_MENTION = re.compile(r'(?:^|(?<=\s))@(?:"(?P<quoted>[^"\n]*)"?|(?P<plain>[^\s"@]\S*))')
_OPEN = re.compile(r'(?:^|(?<=\s))@(?:"(?P<quoted>[^"\n]*)|(?P<plain>[^\s"@]\S*)?)\Z')
_ESCAPED = re.compile(r"(?:^|(?<=\s))@@(?=\S)")
_SENTENCE = ".,;:!?)"
_SHOWN = 60


Listing = tuple[tuple[str, bool], ...]
"""Names in a folder, and whether each is one itself."""


class AttachmentError(MlxMistralError):
    """A file cannot go along with a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """An `@path` in a text, from `begin` to `end`."""

    path: str
    begin: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """A file's text, as it was when it was read."""

    path: str
    """As it was written in the message."""
    target: Path
    """What was read, links followed: where it is not what was written, a screen says so."""
    text: str
    n_bytes: int
    is_link: bool


def mentions(text: str) -> list[Mention]:
    """Every `@path` and `@"path with spaces"` that begins a word. `@@` is an at sign.

    The comma or full stop of a sentence is not part of a path without quotes.
    """
    found = []
    for match in _MENTION.finditer(text):
        if match["quoted"] is not None:
            path, end = match["quoted"], match.end()
        else:
            path = match["plain"].rstrip(_SENTENCE)
            end = match.start() + 1 + len(path)
        if path:
            found.append(Mention(path=path, begin=match.start(), end=end))
    return found


def mention_at(text: str, cursor: int) -> Mention | None:
    """The mention that is being written before the cursor; its path may still be empty."""
    match = _OPEN.search(text, 0, cursor)
    if match is None:
        return None
    path = match["quoted"] if match["quoted"] is not None else match["plain"] or ""
    return Mention(path=path, begin=match.start(), end=cursor)


def quoted(path: str) -> str:
    """A path as it is written after an at sign; one that may go on stays open."""
    if not any(letter.isspace() for letter in path):
        return path
    return f'"{path}' if path.endswith("/") else f'"{path}"'


def parent_of(begun: str) -> str:
    """The part of a path up to its last slash."""
    parent, slash, _ = begun.rpartition("/")
    return f"{parent}{slash}"


def list_folder(parent: str, folder: Path) -> Listing:
    """What is in a folder, in no order; empty where it cannot be read.

    parent: relative to `folder`, absolute, or from `~`; ends with a slash, or is empty. A link is
    listed as itself: what it points to is not looked into.
    """
    try:
        with os.scandir(_path(parent or ".", folder)) as entries:
            listed = [entry for _, entry in zip(range(MAX_LISTED), entries, strict=False)]
    except (OSError, ValueError, RuntimeError):
        return ()
    return tuple((entry.name, _is_folder(entry)) for entry in listed)


def beginning(begun: str, listing: Listing) -> list[str]:
    """Paths that begin so, folders first and with a slash; hidden ones only if asked for.

    listing: of the folder that `parent_of` names.
    """
    parent = parent_of(begun)
    name = begun.removeprefix(parent)
    found = [
        (not is_folder, f"{parent}{each}{'/' * is_folder}")
        for each, is_folder in listing
        if each.startswith(name)
        and (name or not each.startswith("."))
        and each.isprintable()
        and '"' not in each
    ]
    return [path for _, path in sorted(found)]


def read(path: str, folder: Path, *, max_bytes: int = MAX_BYTES) -> Attachment:
    """A regular file of UTF-8 text. Never waits for a pipe, never reads a device.

    Raises: AttachmentError: it is missing, no file, too large or no text.
    """
    try:
        where = _path(path, folder)
        target = where.resolve(strict=True)
        data = _bytes_of(target, path, max_bytes)
        is_link = where.is_symlink()
    except OSError as error:
        raise AttachmentError(f"@{_shown(path)}: {_reason(error)}") from error
    except (ValueError, RuntimeError) as error:  # a NUL in the path; no home for ~
        raise AttachmentError(f"@{_shown(path)}: that is no path; check its name") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = f"byte {error.start:,} is no UTF-8"
        raise AttachmentError(f"@{_shown(path)}: {at}; attach text files only") from error
    if "\0" in text:
        raise AttachmentError(f"@{_shown(path)}: this is a binary file; attach text files only")
    return Attachment(path=path, target=target, text=text, n_bytes=len(data), is_link=is_link)


def attached(text: str, read_one: Callable[[str], Attachment]) -> tuple[str, list[Attachment]]:
    """A message with its files after it, each between fences, and the files.

    Each file goes along once, however often it is named.
    Raises: AttachmentError: as `read`.
    """
    paths = dict.fromkeys(mention.path for mention in mentions(text))
    files = [read_one(path) for path in paths]
    parts = [_ESCAPED.sub("@", text), *map(_fenced, files)]
    return "\n\n".join(part for part in parts if part), files


def _fenced(file: Attachment) -> str:
    """Between fences longer than any in the file, so that none of its lines ends them."""
    longest = max((len(run) for run in re.findall(r"`{3,}", file.text)), default=2)
    fence = "`" * (longest + 1)
    end = "" if file.text.endswith("\n") or not file.text else "\n"
    return f"{visible(file.path)}:\n{fence}\n{file.text}{end}{fence}"


def _path(written: str, folder: Path) -> Path:
    path = Path(written)
    return folder / (path.expanduser() if written.startswith("~") else path)


def _bytes_of(target: Path, path: str, max_bytes: int) -> bytes:
    descriptor = os.open(target, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise AttachmentError(f"@{_shown(path)}: this is a folder; attach one file of it")
        if not stat.S_ISREG(mode):
            raise AttachmentError(f"@{_shown(path)}: this is no regular file; attach one that is")
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(max_bytes + 1)
    finally:
        os.close(descriptor)
    if len(data) > max_bytes:
        limit = f"larger than {max_bytes:,} bytes, the most that is attached"
        raise AttachmentError(f"@{_shown(path)}: {limit}; attach a part of it")
    return data


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir(follow_symlinks=False)
    except OSError:
        return False


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file; write @@ for an at sign that attaches nothing"
    if error.errno in (errno.EACCES, errno.EPERM):
        return "this file may not be read; change its permissions"
    return f"{(error.strerror or 'it cannot be read').lower()}; attach another file"


def _shown(path: str) -> str:
    return clipped(visible(path), _SHOWN)
