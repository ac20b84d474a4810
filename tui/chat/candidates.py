"""What Tab would write, in a list above the composer."""

from __future__ import annotations

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import Static

from mlx_mistral.tui.commands.complete import Candidate
from mlx_mistral.tui.visible import clipped, visible

ROWS = 6


class Choice:
    """The candidates at the cursor and the one that Tab takes; no widget."""

    def __init__(self) -> None:
        self.candidates: Sequence[Candidate] = ()
        self.place = 0
        self.quiet_at: str | None = None
        """A text for which nothing is offered until it changes."""

    def __bool__(self) -> bool:
        return bool(self.candidates)

    @property
    def taken(self) -> Candidate:
        return self.candidates[self.place]

    def offer(self, candidates: Sequence[Candidate]) -> None:
        """The first is marked, unless they are the ones that are offered already."""
        if list(candidates) != list(self.candidates):
            self.candidates, self.place = candidates, 0

    def move(self, step: int) -> None:
        """To the next or the one before; after the last comes the first."""
        self.place = (self.place + step) % len(self.candidates)


class Candidates(Static):
    """At most six of them; the marked one is always among those."""

    DEFAULT_CSS = """
    Candidates { height: auto; max-height: 6; display: none; padding: 0 1; }
    """

    def __init__(self) -> None:
        super().__init__(markup=False)

    def show(self, choice: Choice, width: int) -> None:
        self.display = bool(choice)
        self.update(Content("\n".join(rows(choice, width))))


def rows(choice: Choice, width: int) -> list[str]:
    """A line for each candidate in sight: a mark, what would be written, what it does."""
    count = len(choice.candidates)
    start = min(max(0, choice.place - ROWS + 1), max(0, count - ROWS))
    lines = []
    for index in range(start, min(start + ROWS, count)):
        candidate = choice.candidates[index]
        mark = "›" if index == choice.place else " "
        text = f"{mark} {visible(candidate.text):<14} {visible(candidate.note)}"
        lines.append(clipped(text.rstrip(), width))
    return lines
