"""What could stand where the cursor of the composer is, folders being looked into on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from mlx_mistral.tui.commands.attach import Listing, beginning, list_folder, parent_of
from mlx_mistral.tui.commands.complete import Candidate, complete
from mlx_mistral.tui.commands.parse import is_command
from mlx_mistral.tui.visible import visible


class Completion:
    """Candidates at a cursor. Those of a folder are there once it has been listed."""

    def __init__(self, listed: Callable[[], None]) -> None:
        """listed: called on the loop when there may be more candidates than before."""
        self.model_names: Callable[[], Sequence[str]] = tuple
        """Of models that /model may switch to."""
        self.folder = Path.cwd()
        """What an @path is relative to."""
        self._listed = listed
        self._where: tuple[Path, str] | None = None
        self._listing: Listing | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def is_listing(self) -> bool:
        """Whether there may soon be more candidates."""
        return self._task is not None

    def candidates(self, text: str, cursor: int, *, edits: bool = False) -> Sequence[Candidate]:
        """What is known of what could stand there. edits: an earlier message is written anew."""
        if is_command(text) and (edits or "\n" in text):
            return ()
        wanted = self._where
        self._where = None  # unless a path is asked for again
        found: list[Candidate] = complete(
            text, cursor, models=self._models, paths=lambda begun: self._paths(begun, wanted)
        )
        if self._where is None:
            self._stop()
        return found

    def _models(self, begun: str) -> list[str]:
        names = filter(_is_plain, self.model_names())
        return [name for name in names if begun.lower() in name.lower()]

    def _paths(self, begun: str, known: tuple[Path, str] | None) -> list[str]:
        self._where = (self.folder, parent_of(begun))
        if self._where != known:
            self._stop()
            self._task = asyncio.get_running_loop().create_task(self._list(*self._where))
        if self._listing is None:
            return []
        found = filter(_is_plain, beginning(begun, self._listing))
        return [path for path in found if '"' not in path]

    async def _list(self, folder: Path, parent: str) -> None:
        self._listing = await asyncio.to_thread(list_folder, parent, folder)
        self._task = None
        self._listed()

    def _stop(self) -> None:
        self._listing = None
        if self._task is not None:
            self._task.cancel()
            self._task = None


def _is_plain(name: str) -> bool:
    """Whether a name can be written in a line: others are not offered."""
    return visible(name) == name
