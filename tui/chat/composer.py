"""Where a message is written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar, Protocol

from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import TextArea

from mlx_mistral.tui.commands.complete import Candidate
from mlx_mistral.tui.visible import one_line

from .attached import escaped
from .candidates import Choice
from .clean import clean
from .history import History

PLACEHOLDER = "Write a message; Enter sends it, Ctrl+J adds a line, / begins a command"
FOLDED_LETTERS = 4_000
"""A pasted text of more letters is shown as a line that names its length."""
FOLDED_LINES = 60


class Completes(Protocol):
    """What could stand at a cursor, now or soon."""

    @property
    def is_listing(self) -> bool: ...

    def candidates(self, text: str, cursor: int, *, edits: bool) -> Sequence[Candidate]: ...


class Composer(TextArea):
    """Enter sends; Shift+Enter and Ctrl+J add a line; a long paste is folded, and sent whole."""

    DEFAULT_CSS = """
    Composer { height: auto; min-height: 3; max-height: 10; border: round $panel; padding: 0 1; }
    Composer { min-width: 5; }
    Composer:focus { border: round $primary; }
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send"),
        Binding("shift+enter,ctrl+j", "newline", "New line", key_display="^j", show=False),
        Binding("pageup", "screen.page(-1)", "Page up", show=False),
        Binding("pagedown", "screen.page(1)", "Page down", show=False),
    ]

    class Sent(Message):
        """A message is written; `text` is whole, with what was folded. May be empty."""

        def __init__(self, text: str, edits: int | None) -> None:
            super().__init__()
            self.text = text
            self.edits = edits

    class Reached(Message):
        """Up was pressed in an empty composer, above which messages may wait."""

    class Offered(Message):
        """Other candidates stand at the cursor, or another one is marked."""

    def __init__(self) -> None:
        super().__init__(placeholder=PLACEHOLDER, highlight_cursor_line=False)
        self.prompts = History()
        self.edits: int | None = None
        """The own message that is being written anew."""
        self.completion: Completes | None = None
        self.choice = Choice()
        self._tab_at: str | None = None
        """A text in which Tab was pressed before there was anything to take."""
        self._folded: dict[str, str] = {}
        self._draft: str | None = None

    @property
    def whole_text(self) -> str:
        """What would be sent: folded texts stand at full length."""
        if not self._folded:
            return self.text
        labels = re.compile("|".join(map(re.escape, self._folded)))
        return labels.sub(lambda found: self._folded[found.group()], self.text)

    def tell(self, line: str) -> None:
        """Shows below what is typed what is being waited for; empty: nothing."""
        self.border_subtitle = Content(one_line(line)) if line else None

    def write(self, text: str) -> None:
        """Puts a text into the composer, folded where it is long; the cursor is at its end."""
        self._folded.clear()
        self.text = self._fold(text)
        self.choice.quiet_at = self.text
        self.move_cursor(self.document.end)

    def begin_edit(self, id: int, text: str) -> None:
        """Opens an own message; the draft comes back afterwards."""
        if self.edits is None:
            self._draft = self.whole_text
        self.edits = id
        self.border_title = "Editing an earlier message (Esc leaves it as it was)"
        self.write(clean(text))

    def end_edit(self) -> None:
        """The draft is back."""
        draft, self._draft, self.edits = self._draft, None, None
        self.border_title = ""
        self.write(draft or "")

    def action_send(self) -> None:
        text, edits = self.whole_text, self.edits
        if edits is not None and not text.strip():
            return
        if text.strip():
            self.prompts.add(text)
        if edits is not None:
            self.end_edit()
        else:
            self.write("")
        self.post_message(self.Sent(text, edits))

    def action_newline(self) -> None:
        self.insert("\n")
        self.scroll_cursor_visible()

    def action_cursor_up(self, select: bool = False) -> None:
        if select or self._row() > 0:
            super().action_cursor_up(select)
        elif not self.text and self.edits is None:
            self.post_message(self.Reached())
        else:
            self.recall_earlier()

    def action_cursor_down(self, select: bool = False) -> None:
        at_end = self._row() >= self.wrapped_document.height - 1
        if select or not at_end or (later := self.prompts.later()) is None:
            super().action_cursor_down(select)
        else:
            self.write(later)

    def recall_earlier(self) -> None:
        """The prompt before this one."""
        if (earlier := self.prompts.earlier(self.whole_text)) is not None:
            self.write(earlier)

    def action_delete_left(self) -> None:
        """Takes a folded text away as a whole."""
        row, column = self.cursor_location
        before = self.document.get_line(row)[:column]
        for label in self._folded:
            if self.selection.is_empty and before.endswith(label):
                self.delete((row, column - len(label)), (row, column))
                del self._folded[label]
                return
        super().action_delete_left()

    @on(TextArea.Changed)
    @on(TextArea.SelectionChanged)
    def offer(self) -> None:
        """Looks for what could stand at the cursor."""
        text = self.text
        cursor = index_of(text, self.cursor_location)
        found: Sequence[Candidate] = ()
        if text != self.choice.quiet_at:
            self.choice.quiet_at = None
            if self.selection.is_empty and self.completion is not None:
                edits = self.edits is not None
                found = self.completion.candidates(text, cursor, edits=edits)
        self.choice.offer([each for each in found if each.text != text[each.begin : each.end]])
        if self.choice and self._tab_at == text:
            self.take()
            return
        self.post_message(self.Offered())

    def take(self) -> None:
        """Writes the marked candidate; what it may go on with is offered next."""
        taken = self.choice.taken
        self._tab_at = None
        begin, end = location_of(self.text, taken.begin), location_of(self.text, taken.end)
        self.move_cursor(self.replace(taken.text, begin, end).end_location)
        if not taken.text.endswith(("/", " ")):
            self.choice.quiet_at = self.text
        self.offer()

    def _choose(self, key: str) -> bool:
        """What a key does while candidates are shown; False: nothing of its own."""
        if key not in ("tab", "up", "down", "escape"):
            return False
        self.offer()
        if not self.choice:
            if key == "tab" and self.completion is not None and self.completion.is_listing:
                self._tab_at = self.text
                return True
            return False
        if key == "tab":
            self.take()
        elif key == "escape":
            self.choice.quiet_at = self.text
            self.offer()
        else:
            self.choice.move(-1 if key == "up" else 1)
            self.post_message(self.Offered())
        return True

    async def _on_key(self, event: events.Key) -> None:
        self._tab_at = None
        if self._choose(event.key):
            event.stop()
            event.prevent_default()
            return
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.action_send()
            return
        if event.key in ("shift+enter", "ctrl+j"):
            event.stop()
            event.prevent_default()
            self.action_newline()

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        self.paste(event.text)

    def paste(self, text: str) -> None:
        """Adds a text of any length at the cursor."""
        start, end = self.selection
        result = self.replace(self._fold(clean(text), attaches=False), start, end)
        self.move_cursor(result.end_location)
        self.scroll_cursor_visible()

    def _fold(self, text: str, *, attaches: bool = True) -> str:
        if len(text) <= FOLDED_LETTERS and text.count("\n") <= FOLDED_LINES:
            return text
        label, number = f"[pasted {len(text):,} characters]", 2
        while label in self._folded or label in self.text:
            label, number = f"[pasted {len(text):,} characters, {number}]", number + 1
        self._folded[label] = text if attaches else escaped(text)
        return label

    def _row(self) -> int:
        return self.wrapped_document.location_to_offset(self.cursor_location).y


def index_of(text: str, location: tuple[int, int]) -> int:
    """How many letters stand before a row and column."""
    row, column = location
    return sum(len(line) + 1 for line in text.split("\n")[:row]) + column


def location_of(text: str, index: int) -> tuple[int, int]:
    """The row and column of a letter."""
    before = text[:index]
    return before.count("\n"), index - before.rfind("\n") - 1
