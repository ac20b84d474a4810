"""A list of messages of any length, of which a stretch is mounted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from textual.containers import VerticalScroll
from textual.reactive import reactive

from .entry import Entry
from .message import MessageView

STEP = 4
"""Messages that are mounted more when one end of them comes near."""
LEAST_LINES = 3
"""Of a message: its header, its text, a blank line."""


class Stretch(VerticalScroll):
    """Follows its end unless the user has scrolled away.

    What is mounted are neighbours around what is seen, so that neither scrolling, typing nor
    adding text costs more where there are more messages.
    """

    behind = reactive(False)
    """Whether there is new text below what is seen."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []
        self.following = True
        self._from = 0
        self._written: list[str] = []
        self._settling = False
        """The position is about to be corrected: it tells nothing now."""
        self._lock = asyncio.Lock()

    def on_mount(self) -> None:
        self.anchor()

    @property
    def window(self) -> int:
        """Messages that are mounted when a conversation is opened: more than fit in."""
        return self.app.size.height // LEAST_LINES + STEP

    @property
    def most(self) -> int:
        """Messages that are mounted at any time."""
        return 2 * self.window

    def on_resize(self) -> None:
        self.call_later(self._fill)

    @property
    def views(self) -> list[MessageView]:
        """The messages that are mounted, which are neighbours."""
        return list(self.query_children(MessageView))

    def view(self, index: int) -> MessageView | None:
        """The widget of an entry, if it is mounted."""
        views = self.views
        place = index - self._from
        return views[place] if 0 <= place < len(views) else None

    async def show(self, entries: Sequence[Entry]) -> None:
        """Shows a conversation. What it begins with alike stays as it is."""
        async with self._lock:
            same = 0
            for old, new in zip(self.entries, entries, strict=False):
                if (old.id, old.role, old.text, old.live) != (new.id, new.role, new.text, new.live):
                    break
                same += 1
            views = self.views
            gone = views[max(0, same - self._from) :]
            for index in range(same):
                if (view := self.view(index)) is not None:
                    view.tell(entries[index])
            with self.app.batch_update():
                if gone:
                    await self.remove_children(gone)
                self.entries = list(entries)
                self._written = []
                if same <= self._from:
                    self._from = max(0, len(entries) - self.window)
                    same = self._from
                await self.mount_all(
                    MessageView(entry) for entry in self._fresh(same, len(entries))
                )
            await self._trim(at_end=False)
        self.follow()

    async def add(self, entry: Entry) -> None:
        """Adds an entry at the end."""
        async with self._lock:
            at_end = self._last == len(self.entries)
            self.entries.append(entry)
            if entry.live:
                self._written = [entry.text]
            if at_end:
                await self.mount(MessageView(entry))
                if self.following:
                    await self._trim(at_end=False)
        self._note_new_text()

    async def write(self, raw: str) -> None:
        """Adds text to the live reply, which is the last one that is live."""
        self._written.append(raw)
        async with self._lock:
            if (view := self.view(self._live)) is not None:
                await view.write(raw)
        self._note_new_text()

    async def finish(self, entry: Entry) -> None:
        """The live reply is over, and this is what it has become."""
        async with self._lock:
            index = self._live
            if index == len(self.entries):
                return  # another conversation is shown meanwhile
            view = self.view(index)
            self.entries[index] = entry
            self._written = []
            if view is not None:
                await view.finish()
                view.tell(entry)

    async def drop_live(self) -> None:
        """Takes the live reply away, of which nothing came."""
        async with self._lock:
            index = self._live
            if (view := self.view(index)) is not None:
                await view.remove()
            del self.entries[index : index + 1]
            self._written = []

    def tell(self, index: int, entry: Entry) -> None:
        """Shows another header or note of an entry."""
        self.entries[index] = entry
        if (view := self.view(index)) is not None:
            view.tell(entry)

    def follow(self) -> None:
        """Goes to the end and stays there."""
        self.following = True
        self.behind = False
        self.anchor()

    def release_anchor(self) -> None:
        super().release_anchor()
        self.following = False

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if not self.is_mounted:
            return
        if new_value >= self.max_scroll_y and self._last == len(self.entries):
            self.following = True
            self.behind = False
        elif not self.following and round(old_value) != round(new_value):
            self.call_later(self._look_around)

    @property
    def _live(self) -> int:
        for index in range(len(self.entries) - 1, -1, -1):
            if self.entries[index].live:
                return index
        return len(self.entries)

    @property
    def _last(self) -> int:
        """One past the last entry that is mounted."""
        return self._from + len(self.views)

    def _text(self, entry: Entry) -> str:
        return "".join(self._written) if entry.live else entry.text

    def _fresh(self, start: int, end: int) -> list[Entry]:
        """Entries to be mounted; a live one with what it has said so far."""
        entries = self.entries[start:end]
        return [
            replace(entry, text="".join(self._written)) if entry.live and self._written else entry
            for entry in entries
        ]

    def _note_new_text(self) -> None:
        if not self.following:
            self.behind = True

    async def bring(self, index: int) -> MessageView | None:
        """Mounts an entry and those around it, unless it is mounted."""
        async with self._lock:
            if self.view(index) is None:
                await self._mount_around(index)
        return self.view(index)

    async def _mount_around(self, index: int) -> None:
        """Replaces what is mounted by another stretch of the list."""
        with self.app.batch_update():
            await self.remove_children(self.views)
            self._from = max(0, min(index - self.window // 2, len(self.entries) - self.window))
            entries = self._fresh(self._from, self._from + self.window)
            await self.mount_all(MessageView(entry) for entry in entries)

    async def _look_around(self) -> None:
        """Mounts more where an end of what is mounted comes near."""
        if self._settling or self._lock.locked():
            return
        async with self._lock:
            near = self.size.height
            if self.scroll_y <= near and self._from > 0:
                await self._mount_before()
            elif self.scroll_y >= self.max_scroll_y - near and self._last < len(self.entries):
                entries = self._fresh(self._last, self._last + STEP)
                await self.mount_all(MessageView(entry) for entry in entries)
                await self._trim(at_end=False)

    async def _fill(self) -> None:
        """Mounts as many as a larger terminal has room for."""
        async with self._lock:
            missing = self.window - len(self.views)
            if missing > 0 and self._from > 0:
                await self._mount_before(missing)

    async def _mount_before(self, count: int = STEP) -> None:
        start = max(0, self._from - count)
        entries = self._fresh(start, self._from)
        keep = self._seen()
        await self.mount_all((MessageView(entry) for entry in entries), before=0)
        self._from = start
        self._stay(keep)
        await self._trim(at_end=True)

    async def _trim(self, *, at_end: bool) -> None:
        views = self.views
        surplus = len(views) - self.most
        if surplus <= 0:
            return
        keep = self._seen()
        await self.remove_children(views[-surplus:] if at_end else views[:surplus])
        if not at_end:
            self._from += surplus
        self._stay(keep)

    def _seen(self) -> tuple[MessageView, float] | None:
        """The topmost message in sight, and how far it stands from the top."""
        for view in self.views:
            if view.virtual_region.bottom > self.scroll_y:
                return view, view.virtual_region.y - self.scroll_y
        return None

    def _stay(self, keep: tuple[MessageView, float] | None) -> None:
        """Once what was mounted has its height, what was seen stands where it stood."""
        if keep is None or self.following:
            return
        view, offset = keep

        def back() -> None:
            self._settling = False
            if view.is_mounted and not self.following:
                self.scroll_to(y=view.virtual_region.y - offset, animate=False, force=True)

        self._settling = True
        self.call_after_refresh(back)
