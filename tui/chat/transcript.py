"""The conversation so far, and the keys that act on its messages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive

from .clean import clean
from .code_blocks import code_blocks
from .entry import Entry
from .stretch import Stretch


class Transcript(Stretch):
    """Keys choose a message and act on it."""

    DEFAULT_CSS = "Transcript { height: 1fr; scrollbar-gutter: stable; }"

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab,i", "leave", "Write"),
        Binding("up,k", "select(-1)", "Go", key_display="↑↓"),
        Binding("down,j", "select(1)", "Next message", show=False),
        Binding("home,g", "first", "First", show=False),
        Binding("end,G", "last", "Last", show=False),
        Binding("left,h", "switch(-1)", "Branch", key_display="←→"),
        Binding("right,l", "switch(1)", "Next version", show=False),
        Binding("enter,t", "toggle_thoughts", "Open"),
        Binding("c", "copy", "Copy"),
        Binding("b", "copy_block", "Code"),
        Binding("e", "edit", "Edit"),
        Binding("r", "regenerate", "Again"),
    ]

    class Acted(Message):
        """A key was pressed on a message."""

        def __init__(self, entry: Entry) -> None:
            super().__init__()
            self.entry = entry

    class Edit(Acted):
        """An own message is to be written anew."""

    class Regenerate(Acted):
        """A reply is to be made anew."""

    class Switch(Acted):
        """Another version of a message is wanted."""

        def __init__(self, entry: Entry, step: int) -> None:
            super().__init__(entry)
            self.step = step

    class Copied(Message):
        """A text goes to the clipboard."""

        def __init__(self, text: str, what: str) -> None:
            super().__init__()
            self.text = text
            self.what = what

    class Left(Message):
        """Back to the composer."""

    class Behind(Message):
        """Whether there is new text below what is seen."""

        def __init__(self, behind: bool) -> None:
            super().__init__()
            self.behind = behind

    selected: reactive[int | None] = reactive(None)

    def __init__(self) -> None:
        super().__init__()
        self._block = -1
        """Of the message's code blocks, the one that was copied last."""

    async def show(self, entries: Sequence[Entry]) -> None:
        self.selected = None
        await super().show(entries)
        if self.has_focus and entries:
            self.selected = len(entries) - 1

    async def choose(self, index: int) -> None:
        """Puts the mark on an entry, if there still is one."""
        if self.entries:
            await self._go(min(index, len(self.entries) - 1))

    def watch_behind(self, behind: bool) -> None:
        self.post_message(self.Behind(behind))

    def watch_selected(self, old: int | None, new: int | None) -> None:
        self._block = -1
        for index, on in ((old, False), (new, True)):
            if index is not None and (view := self.view(index)) is not None:
                view.selected = on

    def on_focus(self) -> None:
        if self.selected is None and self.entries:
            self.selected = len(self.entries) - 1

    def on_blur(self) -> None:
        self.selected = None

    async def action_select(self, step: int) -> None:
        if not self.entries:
            return
        place = len(self.entries) if self.selected is None else self.selected
        await self._go(min(max(place + step, 0), len(self.entries) - 1))

    async def action_first(self) -> None:
        if self.entries:
            await self._go(0)

    async def action_last(self) -> None:
        if self.entries:
            await self._go(len(self.entries) - 1)
            self.follow()

    def action_toggle_thoughts(self) -> None:
        if self.selected is not None and (view := self.view(self.selected)) is not None:
            view.toggle()

    def action_copy(self) -> None:
        if (entry := self._chosen) is not None:
            self.post_message(self.Copied(clean(self._text(entry)), "message"))

    def action_copy_block(self) -> None:
        """The first code block of a message; pressed again, the next."""
        if (entry := self._chosen) is None:
            return
        blocks = code_blocks(clean(self._text(entry)))
        if not blocks:
            self.notify("This message has no code block.", markup=False)
            return
        self._block = (self._block + 1) % len(blocks)
        what = f"code block {self._block + 1} of {len(blocks)}"
        self.post_message(self.Copied(blocks[self._block], what))

    def action_edit(self) -> None:
        if (entry := self._chosen) is not None and entry.role == "user":
            self.post_message(self.Edit(entry))

    def action_regenerate(self) -> None:
        if (entry := self._chosen) is not None and entry.role in ("user", "assistant"):
            self.post_message(self.Regenerate(entry))

    def action_switch(self, step: int) -> None:
        if (entry := self._chosen) is not None and entry.version[1] > 1:
            self.post_message(self.Switch(entry, step))

    def action_leave(self) -> None:
        self.post_message(self.Left())

    @property
    def _chosen(self) -> Entry | None:
        return None if self.selected is None else self.entries[self.selected]

    async def _go(self, index: int) -> None:
        view = await self.bring(index)
        self.selected = index
        if view is not None:
            view.selected = True
            if index < len(self.entries) - 1:
                self.release_anchor()
            self.call_after_refresh(self.scroll_to_widget, view, animate=False, top=False)
