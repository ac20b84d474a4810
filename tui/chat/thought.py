"""What a model thinks before it speaks."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.reactive import reactive
from textual.widgets import Static

from .streamed import StreamedMarkdown


class Thought(Vertical):
    """A collapsible part: open while it grows, closed when it is over."""

    DEFAULT_CSS = """
    Thought { height: auto; color: $text-muted; border-left: outer $panel; padding-left: 1; }
    Thought > .title { text-style: italic; height: 1; }
    """

    opened = reactive(True)

    def __init__(self, text: str = "", *, over: bool = False) -> None:
        super().__init__()
        self._letters = len(text)
        self._over = over
        self._title = Static(markup=False, classes="title")
        self._body = StreamedMarkdown(text)
        self.set_reactive(Thought.opened, not over)

    def compose(self) -> ComposeResult:
        yield self._title
        yield self._body

    def on_mount(self) -> None:
        self._show()

    def watch_opened(self) -> None:
        self._show()

    async def write(self, text: str) -> None:
        self._letters += len(text)
        await self._body.write(text)

    async def finish(self) -> None:
        """The thought is over: it closes."""
        await self._body.finish()
        self._over = True
        self.opened = False
        self._show()

    def _show(self) -> None:
        self._body.display = self.opened
        name = f"Thought, {self._letters:,} characters" if self._over else "Thinking…"
        hint = "Enter closes" if self.opened else "Enter opens"
        sign = "▼" if self.opened else "▶"
        self._title.update(f"{sign} {name} ({hint})" if self._over else f"{sign} {name}")
