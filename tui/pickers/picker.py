"""A list in front of everything else, with a line to filter it and a line for what happened."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from mlx_mistral.tui.visible import one_line

Result = TypeVar("Result")


class Filter(Input):
    """Down goes to the list."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "screen.focus_rows", "List", show=False),
    ]


class Rows(OptionList):
    """Up on the first row goes back to the filter."""

    class LeftTop(Message):
        """Up was pressed on the first row."""

    def action_cursor_up(self) -> None:
        if self.highlighted:
            super().action_cursor_up()
        else:
            self.post_message(self.LeftTop())


class Picker(ModalScreen[Result]):
    """What a list to choose from has in common; which rows there are is for those who inherit.

    The filter has the focus first, so that typing filters; keys of the list work in the list.
    """

    DEFAULT_CSS = """
    Picker { align: center middle; }
    Picker > Vertical { width: 1fr; max-width: 110; height: 1fr; max-height: 34; margin: 1 2;
                        padding: 0 1; background: $surface; border: round $primary; }
    Picker Input { height: 1; }
    Picker Rows { height: 1fr; border: none; }
    Picker Static { height: 1; color: $text-muted; text-wrap: nowrap; text-overflow: ellipsis; }
    Picker #picker-note { color: $text; text-style: bold; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", "Close"),
    ]
    HEADING: ClassVar[str] = ""
    KEYS: ClassVar[str] = ""
    """The last line: which keys do what."""

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = self.HEADING
            yield Filter(id="picker-filter", placeholder="type to filter", compact=True)
            yield Rows(id="picker-rows", compact=True)
            yield Static("", id="picker-note", markup=False)
            yield Static(self.KEYS, id="picker-keys", markup=False)

    def rows(self, query: str, width: int) -> Sequence[Content]:
        """What is listed for a query; also keeps what each row stands for."""
        raise NotImplementedError

    def choose(self, index: int) -> None:
        """Enter was pressed on a row."""
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Shows one line about what happened, as plain text; nobody sees it once this is left."""
        for line in self.query("#picker-note").results(Static):
            line.update(Content(one_line(text)))

    @property
    def query_text(self) -> str:
        return self.query_one("#picker-filter", Input).value

    @property
    def highlighted(self) -> int | None:
        return self.query_one(Rows).highlighted

    def refresh_rows(self, highlight: int = 0) -> None:
        """Lists anew; the highlight goes to a row, or to the last where there are fewer."""
        listed = self.query_one(Rows)
        found = self.rows(self.query_text, max(listed.scrollable_content_region.width - 2, 20))
        listed.clear_options()
        listed.add_options([Option(row) for row in found])
        if found:
            listed.highlighted = min(highlight, len(found) - 1)

    def on_mount(self) -> None:
        self.query_one(Filter).focus()

    def on_resize(self, event: events.Resize) -> None:
        self.call_after_refresh(self._list_again)

    @on(Input.Changed, "#picker-filter")
    def filter(self) -> None:
        self.refresh_rows()

    async def settled(self) -> None:
        """Returns once what is listed is what the filter asks for."""

    @on(Input.Submitted, "#picker-filter")
    async def choose_highlighted(self) -> None:
        await self.settled()
        if self.highlighted is not None:
            self.choose(self.highlighted)

    @on(OptionList.OptionSelected, "#picker-rows")
    def choose_selected(self, event: OptionList.OptionSelected) -> None:
        self.choose(event.option_index)

    @on(Rows.LeftTop)
    def action_focus_filter(self) -> None:
        self.query_one(Filter).focus()

    def action_focus_rows(self) -> None:
        if self.query_one(Rows).option_count:
            self.query_one(Rows).focus()

    def action_leave(self) -> None:
        self.dismiss(None)

    def _list_again(self) -> None:
        self.refresh_rows(self.highlighted or 0)
