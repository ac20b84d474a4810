"""The list of models: choose one, pull one."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList, Static

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.tui.visible import one_line

from .model_rows import ModelProvider, ModelRow, Pace, matching, row_text
from .picker import Picker

STOPPED = "stopped; files that are whole are kept, p fetches the rest"


class ModelPicker(Picker[str | None]):
    """Ends with the name of a model, or None. Escape first ends a download, then the list."""

    HEADING = "Models"
    KEYS = "Enter uses; in the list (Down): p pulls, i asks the Hub; Esc closes"
    DEFAULT_CSS = "ModelPicker #picker-note { height: auto; min-height: 1; max-height: 3; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", show=False),
        Binding("i", "look", "Ask the Hub", show=False),
    ]

    class Listed(Message):
        """The provider has told its rows."""

        def __init__(self, rows: Sequence[ModelRow]) -> None:
            self.rows = rows
            super().__init__()

    class Pulling(Message):
        """Some more of a model is here, enough for the bar to differ."""

        def __init__(self, bar: str) -> None:
            self.bar = bar
            super().__init__()

    class Pulled(Message):
        """A download is over; `error`: one line where it failed."""

        def __init__(self, name: str, error: str = "", was_stopped: bool = False) -> None:
            self.name = name
            self.error = error
            self.was_stopped = was_stopped
            super().__init__()

    class Looked(Message):
        """The provider has told what the Hub knows of a model."""

        def __init__(self, row: ModelRow) -> None:
            self.row = row
            super().__init__()

    class Unlisted(Message):
        """The provider could not tell its rows, or one of them."""

        def __init__(self, error: str) -> None:
            self.error = error
            super().__init__()

    def __init__(self, provider: ModelProvider, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._provider = provider
        self._all: Sequence[ModelRow] = ()
        self._shown: list[ModelRow] = []
        self._looked: dict[str, ModelRow] = {}
        """What the Hub told of models that are not here."""
        self._stop: Event | None = None
        """Set to end the download that is under way; None: there is none."""

    def on_mount(self) -> None:
        detail = Static("", id="picker-detail", markup=False)
        self.query_one(Vertical).mount(detail, before="#picker-note")
        self.note("looking for models…")
        self._list()

    def on_unmount(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def rows(self, query: str, width: int) -> Sequence[Content]:
        self._shown = [self._looked.get(row.name, row) for row in matching(self._all, query)]
        return [Content(row_text(row, width)) for row in self._shown]

    def choose(self, index: int) -> None:
        self.dismiss(self._shown[index].name)

    def action_pull(self) -> None:
        if self.highlighted is None:
            return
        row = self._shown[self.highlighted]
        if self._stop is not None:
            self.note("one download at a time; Esc ends the one under way")
        elif row.is_cached:
            self.note(f"{row.name} is here already; Enter uses it")
        else:
            self._stop = stop = Event()
            self.note(f"pulling {row.name}…")
            self.run_worker(lambda: self._pull(row.name, stop), thread=True, exclusive=False)

    def action_look(self) -> None:
        if self.highlighted is None:
            return
        row = self._shown[self.highlighted]
        if row.is_cached:
            self.note(f"{row.name} is here already; what it says of itself is shown")
        else:
            self.note(f"asking the Hub about {row.name}…")
            self.run_worker(lambda: self._look(row.name), thread=True, exclusive=False)

    def action_leave(self) -> None:
        if self._stop is not None and not self._stop.is_set():
            self._stop.set()
            self.note("ending the download; files that are whole are kept")
        else:
            self.dismiss(None)

    @on(Listed)
    def show_rows(self, event: Listed) -> None:
        if not self._all:
            self.note("" if event.rows else "no model is known here")
        self._all = event.rows
        self.refresh_rows(self.highlighted or 0)

    @on(OptionList.OptionHighlighted, "#picker-rows")
    def show_detail(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index < len(self._shown):
            text = one_line(self._shown[event.option_index].detail)
            self.query_one("#picker-detail", Static).update(Content(text))

    @on(Looked)
    def show_looked(self, event: Looked) -> None:
        self._looked[event.row.name] = event.row
        self.note(f"{event.row.name}: as the Hub describes it")
        self.refresh_rows(self.highlighted or 0)

    @on(Unlisted)
    def show_error(self, event: Unlisted) -> None:
        self.note(event.error)

    @on(Pulling)
    def show_progress(self, event: Pulling) -> None:
        if self._stop is not None and not self._stop.is_set():
            self.note(event.bar)

    @on(Pulled)
    def show_end(self, event: Pulled) -> None:
        self._stop = None
        if event.error:
            self.note(event.error)
            return
        self._list()
        self.note(f"{event.name}: {STOPPED if event.was_stopped else 'is here'}")

    def _list(self) -> None:
        self.run_worker(self._ask, thread=True, exclusive=False)

    def _ask(self) -> None:
        """On a thread of its own."""
        try:
            self.post_message(self.Listed(self._provider.rows()))
        except MlxMistralError as error:
            self.post_message(self.Unlisted(str(error)))

    def _look(self, name: str) -> None:
        """On a thread of its own."""
        try:
            self.post_message(self.Looked(self._provider.look(name)))
        except MlxMistralError as error:
            self.post_message(self.Unlisted(str(error)))

    def _pull(self, name: str, stop: Event) -> None:
        """On a thread of its own."""

        pace, shown = Pace(name), ""

        def report(done: int, total: int) -> bool:
            nonlocal shown
            bar = pace.text(done, total)
            if bar != shown:
                shown = bar
                self.post_message(self.Pulling(bar))
            return not stop.is_set()

        try:
            self._provider.pull(name, report)
        except MlxMistralError as error:
            self.post_message(self.Pulled(name, error="" if stop.is_set() else str(error),
                                          was_stopped=stop.is_set()))  # fmt: skip
        else:
            self.post_message(self.Pulled(name, was_stopped=stop.is_set()))
