"""Text in rows, of which only those that change are drawn."""

from __future__ import annotations

from textual.content import Content
from textual.geometry import Region
from textual.widget import Widget


class Rows(Widget):
    """A picture that changes several times a second; `redraw` costs as much as has changed."""

    def __init__(self) -> None:
        super().__init__()
        self._drawn: list[Content] = []
        self._next: Content | None = None
        """What `redraw` has made and is about to be drawn."""

    def picture(self) -> Content:
        """What is to be seen in the `content_size` that there is."""
        raise NotImplementedError

    def redraw(self) -> None:
        """Draws the rows in which the picture is another one by now."""
        if not self.content_size:
            return  # hidden, or not there yet
        before = self._drawn
        self._next = self.picture()
        rows = self._next.split()
        if len(rows) != len(before):
            self.refresh()
            return
        width = self.content_size.width
        changed = [y for y, (old, new) in enumerate(zip(before, rows, strict=True)) if old != new]
        if changed:
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def on_show(self) -> None:
        """Rows that were asked for while this was hidden are not drawn by that."""
        self._next = None
        self.refresh()

    def render(self) -> Content:
        content, self._next = self._next or self.picture(), None
        self._drawn = content.split()
        return content
