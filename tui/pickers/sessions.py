"""The list of conversations: find, open, rename, delete, export, import."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import Input
from textual.worker import Worker

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.tui.store_thread import StoreThread

from .picker import Picker, Rows
from .session_rows import Row, SessionList, listed, row_content


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The session to open, at the message that a search found."""

    session: int
    message: int | None = None


class SessionPicker(Picker[Opened | None]):
    """Ends with what to open, or None."""

    HEADING = "Conversations"
    KEYS = "Enter opens · Down, then: r rename, d delete, u undo, e export, i import"
    DEFAULT_CSS = """
    SessionPicker #session-title { display: none; }
    SessionPicker.renaming #session-title { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "rename", "Rename", show=False),
        Binding("d", "delete", "Delete", show=False),
        Binding("u", "undo", "Undo", show=False),
        Binding("e", "export", "Export", show=False),
        Binding("i", "import", "Import", show=False),
    ]

    class ExportAsked(Message):
        """A session is to be written to a file; whoever does so says where with `note`."""

        def __init__(self, picker: SessionPicker, session: int) -> None:
            self.picker = picker
            self.session = session
            super().__init__()

    class ImportAsked(Message):
        """The list was left in order to name a file that was exported."""

    def __init__(
        self,
        store: StoreThread,
        *,
        query: str = "",
        clock: Callable[[], float] = time.time,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._store = store
        self._query = query
        self._clock = clock
        self._shown: list[Row] = []
        self._deleted: list[Row] = []
        self._renamed: int | None = None
        self._listing: Worker[None] | None = None

    def on_mount(self) -> None:
        title = Input(id="session-title", compact=True)
        self.query_one(Vertical).mount(title, after="#picker-rows")
        self.query_one("#picker-filter", Input).value = self._query

    def rows(self, query: str, width: int) -> Sequence[Content]:
        return [row_content(row, width) for row in self._shown]

    def refresh_rows(self, highlight: int = 0) -> None:
        """Asks the store; what it lists is shown when it has answered."""
        listing = partial(self._list, highlight)
        self._listing = self.run_worker(listing, exclusive=True, group="list")

    async def settled(self) -> None:
        if self._listing is not None:
            await self._listing.wait()

    async def _list(self, highlight: int) -> None:
        query, now = self.query_text, self._clock()
        try:
            self._shown = await self._store.ask(lambda store: listed(store, query, now))
        except MlxMistralError as error:
            self._shown = []
            self.note(str(error))
        super().refresh_rows(highlight)

    def choose(self, index: int) -> None:
        row = self._shown[index]
        self.dismiss(Opened(session=row.session, message=row.message))

    def action_rename(self) -> None:
        row = self._row()
        if row is not None:
            self._renamed = row.session
            self.add_class("renaming")
            title = self.query_one("#session-title", Input)
            title.value = row.title
            title.focus()
            self.note("Enter keeps the title, Esc leaves it as it was")

    @on(Input.Submitted, "#session-title")
    async def keep_title(self, event: Input.Submitted) -> None:
        event.stop()
        session, title = self._renamed, event.value.strip()
        if session is not None and await self._try(lambda store: store.rename(session, title)):
            self.note(f"renamed: {title}")
        self._end_renaming()

    async def action_delete(self) -> None:
        row = self._row()
        if row is not None and await self._try(lambda store: store.delete(row.session)):
            self._deleted.append(row)
            self.refresh_rows(self.highlighted or 0)
            self.note(f"deleted, u brings it back: {row.title}")

    async def action_undo(self) -> None:
        if not self._deleted:
            self.note("nothing was deleted here")
            return
        row = self._deleted[-1]
        if await self._try(lambda store: store.restore(row.session)):
            self._deleted.pop()
            self.refresh_rows(self.highlighted or 0)
            self.note(f"it is back: {row.title}")

    def action_export(self) -> None:
        row = self._row()
        if row is not None:
            self.post_message(self.ExportAsked(self, row.session))

    def action_import(self) -> None:
        self.dismiss(None)
        self.app.post_message(self.ImportAsked())

    def action_leave(self) -> None:
        if self._renamed is not None:
            self.note("")
            self._end_renaming()
        else:
            self.dismiss(None)

    def _row(self) -> Row | None:
        index = self.highlighted
        return self._shown[index] if index is not None and index < len(self._shown) else None

    def _end_renaming(self) -> None:
        self._renamed = None
        self.remove_class("renaming")
        self.refresh_rows(self.highlighted or 0)
        self.query_one(Rows).focus()

    async def _try(self, change: Callable[[SessionList], object]) -> bool:
        """Whether a change was made; says why where it was not."""
        try:
            await self._store.ask(change)
        except MlxMistralError as error:
            self.note(str(error))
            return False
        return True
