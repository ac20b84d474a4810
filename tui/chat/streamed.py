"""A Markdown text that grows."""

from __future__ import annotations

from textual.containers import Vertical
from textual.widgets import Markdown
from textual.widgets.markdown import MarkdownStream

from .markdown import ModelMarkdown
from .segments import Segments


class StreamedMarkdown(Vertical):
    """Markdown widgets one below another, the last of which grows.

    Each holds a few thousand letters, so a token costs the same wherever in a reply it stands.
    """

    DEFAULT_CSS = "StreamedMarkdown { height: auto; }"

    def __init__(self, text: str = "") -> None:
        super().__init__()
        self._segments = Segments()
        self._first: list[ModelMarkdown] = []
        self._stream: MarkdownStream | None = None
        for piece in self._segments.add(text):
            self._first.append(ModelMarkdown(piece.text))

    def compose(self):  # type: ignore[no-untyped-def]
        yield from self._first

    async def write(self, text: str) -> None:
        """Adds to the end; what cannot be shown in time is shown together with what follows."""
        for piece in self._segments.add(text):
            if piece.fresh or self._stream is None:
                await self._begin(piece.fresh)
            assert self._stream is not None
            await self._stream.write(piece.text)

    async def finish(self) -> None:
        """Shows what is left and ends the task that streams."""
        if self._stream is not None:
            await self._stream.stop()
            self._stream = None

    async def _begin(self, fresh: bool) -> None:
        await self.finish()
        widgets = list(self.query_children(ModelMarkdown))
        if fresh or not widgets:
            widget = ModelMarkdown()
            await self.mount(widget)
        else:
            widget = widgets[-1]
        self._stream = Markdown.get_stream(widget)

    async def on_unmount(self) -> None:
        if self._stream is not None and self._stream._task is not None:
            self._stream._task.cancel()
            self._stream = None
