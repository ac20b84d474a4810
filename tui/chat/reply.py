"""The body of a reply: its thoughts and what it says."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical

from .clean import Cleaner
from .streamed import StreamedMarkdown
from .thinking import Part, ThinkingSplitter
from .thought import Thought


class ReplyBody(Vertical):
    """Shows raw text of a model, whole or as it comes."""

    DEFAULT_CSS = "ReplyBody { height: auto; }"

    def __init__(self, raw: str = "", *, over: bool = False) -> None:
        super().__init__()
        self._cleaner = Cleaner()
        self._splitter = ThinkingSplitter()
        parts = self._parts(raw, over=over)
        self._first = [self._widget(part, over=over) for part in _joined(parts)]
        self._part = self._first[-1] if self._first and not over else None
        if isinstance(self._part, Thought) and not self._splitter.thinking:
            self._part = None

    def compose(self) -> ComposeResult:
        yield from self._first

    async def write(self, raw: str) -> None:
        """Adds a piece as the model made it."""
        await self._write(self._parts(raw, over=False))

    async def finish(self) -> None:
        """Nothing follows."""
        await self._write(self._parts("", over=True))
        if self._part is not None:
            await self._part.finish()
            self._part = None

    def toggle(self) -> bool:
        """Opens every thought, or closes them if one is open. False: there is none."""
        thoughts = list(self.query(Thought))
        opened = any(thought.opened for thought in thoughts)
        for thought in thoughts:
            thought.opened = not opened
        return bool(thoughts)

    def _parts(self, raw: str, *, over: bool) -> list[Part]:
        parts = self._splitter.add(self._cleaner.add(raw))
        if over:
            parts += self._splitter.add(self._cleaner.finish())
            parts += self._splitter.finish()
        return parts

    def _widget(self, part: Part, *, over: bool) -> Thought | StreamedMarkdown:
        if not part.thought:
            return StreamedMarkdown(part.text)
        return Thought(part.text, over=over or not self._splitter.thinking)

    async def _write(self, parts: list[Part]) -> None:
        for part in parts:
            if part.thought == isinstance(self._part, Thought) and self._part is not None:
                await self._part.write(part.text)
                continue
            if self._part is not None:
                await self._part.finish()
                self._part = None
            if part.thought or part.text.strip():
                self._part = Thought() if part.thought else StreamedMarkdown()
                await self.mount(self._part)
                await self._part.write(part.text)


def _joined(parts: list[Part]) -> list[Part]:
    """One part for each stretch of thought or speech; speech of blanks alone is left out."""
    joined: list[Part] = []
    for part in parts:
        if joined and joined[-1].thought == part.thought:
            joined[-1] = Part(part.thought, joined[-1].text + part.text)
        else:
            joined.append(part)
    return [part for part in joined if part.thought or part.text.strip()]
