"""The messages that wait, above the composer."""

from __future__ import annotations

from collections.abc import Iterable

from textual.content import Content
from textual.widgets import Static

from mlx_mistral.tui.visible import clipped, one_line

from .queue import Queue

SHOWN = 3


class Waiting(Static):
    """A line for each of the first few queued messages."""

    DEFAULT_CSS = "Waiting { height: auto; display: none; color: $text-muted; padding: 0 1; }"

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, queue: Queue, width: int) -> None:
        self.display = bool(queue)
        self.update(Content("\n".join(lines(queue, width))))


def lines(queue: Queue, width: int) -> Iterable[str]:
    """What waits, and what can be done about it."""
    texts = [one_line(message.text[:500]) for message in queue]
    for text in texts[:SHOWN]:
        yield clipped(f"queued: {text}", width)
    if len(texts) > SHOWN:
        yield clipped(f"queued: {len(texts) - SHOWN} more", width)
    if texts and queue.held:
        yield clipped("Enter sends the first, ↑ takes the last back, F8 removes it", width)
    elif texts:
        yield clipped("↑ takes the last back, F8 removes it", width)
