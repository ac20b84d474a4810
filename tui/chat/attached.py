"""The files that a message names while it is written, and how many tokens each has."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from mlx_mistral.live.commands import Count
from mlx_mistral.live.events import Counted, Event, Failed, Loaded, LoadFailed
from mlx_mistral.tui.commands.attach import Attachment, AttachmentError, mentions, read
from mlx_mistral.tui.commands.parse import is_command
from mlx_mistral.tui.visible import clipped, visible

_AT_SIGN = re.compile(r"(?:^|(?<=\s))@(?=\S)")


def escaped(text: str) -> str:
    """The text as it has to be written so that no at sign of it attaches a file."""
    return _AT_SIGN.sub("@@", text)


class TokenCounts:
    """Asks once for each text. Its ids are negative: those of replies are not."""

    def __init__(self) -> None:
        self._tokens: dict[str, int] = {}
        self._asked: dict[int, str] = {}
        self._next = -1

    def ask(self, text: str) -> Count | None:
        """What to ask of an engine; None: it is known, or asked already."""
        key = _key(text)
        if key in self._tokens or key in self._asked.values():
            return None
        count = Count(id=self._next, text=text)
        self._asked[count.id] = key
        self._next -= 1
        return count

    def hear(self, event: Counted | Failed) -> bool:
        """Returns: whether this was an answer to one of its questions."""
        key = self._asked.pop(event.id, None)
        if key is not None and isinstance(event, Counted):
            self._tokens[key] = event.tokens
        return key is not None

    def tokens(self, text: str) -> int | None:
        """None: not known yet."""
        return self._tokens.get(_key(text))

    def forget(self) -> None:
        """Another model counts otherwise; what is still answered is of no use."""
        self._tokens.clear()
        self._asked.clear()


class Attached(Static):
    """A line with the files of the message that is being written."""

    DEFAULT_CSS = """
    Attached { height: 1; display: none; padding: 0 1; color: $text-muted; }
    """

    class Asked(Message):
        """The tokens of a file are to be counted."""

        def __init__(self, count: Count) -> None:
            super().__init__()
            self.count = count

    def __init__(self) -> None:
        super().__init__(markup=False)
        self._counts = TokenCounts()
        self._paths: tuple[str, ...] = ()
        self._files: list[Attachment] = []
        self._may_ask = False

    def look(self, text: str, folder: Path) -> None:
        """Reads the files that a text names, if they are not the ones it named before."""
        named = () if is_command(text) else mentions(text)
        paths = tuple(dict.fromkeys(each.path for each in named))
        if paths != self._paths:
            self._paths = paths
            self.run_worker(self._read(paths, folder), exclusive=True)

    def allow(self, may_ask: bool) -> None:
        """Whether there is a model that counts; it is another one than before."""
        self._may_ask = may_ask
        self._counts.forget()
        self._ask()

    def hear(self, events: Iterable[Event]) -> None:
        """What an engine tells: answers to its questions, and whether any can be asked."""
        for event in events:
            match event:
                case Loaded():
                    self.allow(True)
                case LoadFailed():
                    self.allow(False)
                case Counted() | Failed() if self._counts.hear(event):
                    self._show()

    def on_resize(self) -> None:
        self._show()

    async def _read(self, paths: tuple[str, ...], folder: Path) -> None:
        self._files = await asyncio.to_thread(_readable, paths, folder) if paths else []
        self._ask()

    def _ask(self) -> None:
        if self._may_ask:
            for file in self._files:
                if (count := self._counts.ask(file.text)) is not None:
                    self.post_message(self.Asked(count))
        self._show()

    def _show(self) -> None:
        line = "  ".join(_line(file, self._counts.tokens(file.text)) for file in self._files)
        self.display = bool(line)
        self.update(Content(clipped(line, max(20, self.screen.size.width - 2))))


def _readable(paths: Iterable[str], folder: Path) -> list[Attachment]:
    files = []
    for path in paths:
        try:
            files.append(read(path, folder))
        except AttachmentError:
            continue  # it may still be half written; sending tells what is wrong
    return files


def _line(file: Attachment, tokens: int | None) -> str:
    size = f"{file.n_bytes:,} bytes" if tokens is None else f"{tokens:,} tokens"
    link = f" (a link to {visible(str(file.target))})" if file.is_link else ""
    return f"{visible(file.path)}: {size}{link}"


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
