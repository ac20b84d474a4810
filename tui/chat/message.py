"""One message of the transcript."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.reactive import reactive
from textual.widgets import Static

from .clean import clean
from .entry import Entry
from .reply import ReplyBody

SHOWN_LETTERS = 4_000
"""Of an own message; the rest is sent, but not shown."""


class MessageView(Vertical):
    """A word for who speaks, the text, and a line about it."""

    DEFAULT_CSS = """
    MessageView {
        height: auto; padding: 0 1; margin-bottom: 1; border-left: blank;
        & > .header { text-style: bold; height: 1; }
        & > .note { color: $text-muted; height: auto; display: none; }
        &.-error > .header { color: $text-error; }
        &.-user > .header { color: $text-primary; }
        &.-selected { border-left: thick $primary; background: $boost; }
    }
    """

    selected = reactive(False)

    def __init__(self, entry: Entry) -> None:
        super().__init__(classes=f"-{entry.role}")
        self.entry = entry
        self._header = Static(markup=False, classes="header")
        self._note = Static(markup=False, classes="note")
        self._reply = (
            ReplyBody(entry.text, over=not entry.live) if entry.role == "assistant" else None
        )

    def compose(self) -> ComposeResult:
        yield self._header
        yield self._reply or Static(Content(_shown(self.entry.text)), markup=False)
        yield self._note

    def on_mount(self) -> None:
        self.tell(self.entry)

    def watch_selected(self, selected: bool) -> None:
        self.set_class(selected, "-selected")
        self._show_header()

    def tell(self, entry: Entry) -> None:
        """Shows another header and note; the text is the one that was written."""
        self.entry = entry
        self._show_header()
        self._note.update(Content(clean(entry.note)))
        self._note.display = bool(entry.note)

    async def write(self, raw: str) -> None:
        if self._reply is not None:
            await self._reply.write(raw)

    async def finish(self) -> None:
        if self._reply is not None:
            await self._reply.finish()

    def toggle(self) -> bool:
        """Opens or closes the thoughts of a reply. False: it has none."""
        return self._reply is not None and self._reply.toggle()

    def _show_header(self) -> None:
        self._header.update(Content(f"{'▸ ' if self.selected else ''}{self.entry.header}"))


def _shown(text: str) -> str:
    cleaned = clean(text)
    if len(cleaned) <= SHOWN_LETTERS:
        return cleaned
    return f"{cleaned[:SHOWN_LETTERS]}…\n({len(cleaned):,} characters in all; c copies them)"
