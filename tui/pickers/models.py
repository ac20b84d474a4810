"""The list of models: choose one, pull one."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event
from typing import ClassVar

from textual import on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message

from mlx_mistral.errors import MlxMistralError

from .model_rows import ModelProvider, ModelRow, bar_text, matching, row_text
from .picker import Picker


class ModelPicker(Picker[str | None]):
    """Ends with the name of a model, or None. Escape first ends a download, then the list."""

    HEADING = "Models"
    KEYS = "Enter uses; in the list (Down): p pulls; Esc closes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "pull", "Pull", show=False),
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

    class Unlisted(Message):
        """The provider could not tell its rows."""

        def __init__(self, error: str) -> None:
            self.error = error
            super().__init__()

    def __init__(self, provider: ModelProvider, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._provider = provider
        self._all: Sequence[ModelRow] = ()
        self._shown: list[ModelRow] = []
        self._stop: Event | None = None
        """Set to end the download that is under way; None: there is none."""

    def on_mount(self) -> None:
        self.note("looking for models…")
        self._list()

    def on_unmount(self) -> None:
        if self._stop is not None:
            self._stop.set()

    def rows(self, query: str, width: int) -> Sequence[Content]:
        self._shown = matching(self._all, query)
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
            self.note(bar_text(row.name, 0, row.size_bytes or 0))
            self.run_worker(lambda: self._pull(row.name, stop), thread=True, exclusive=False)

    def action_leave(self) -> None:
        if self._stop is not None and not self._stop.is_set():
            self._stop.set()
            self.note("ending the download; what is here is kept, p goes on with it")
        else:
            self.dismiss(None)

    @on(Listed)
    def show_rows(self, event: Listed) -> None:
        if not self._all:
            self.note("" if event.rows else "no model is known here")
        self._all = event.rows
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
        self.note(f"{event.name}: {'stopped; p goes on' if event.was_stopped else 'is here'}")

    def _list(self) -> None:
        self.run_worker(self._ask, thread=True, exclusive=False)

    def _ask(self) -> None:
        """On a thread of its own."""
        try:
            self.post_message(self.Listed(self._provider.rows()))
        except MlxMistralError as error:
            self.post_message(self.Unlisted(str(error)))

    def _pull(self, name: str, stop: Event) -> None:
        """On a thread of its own."""

        shown = ""

        def report(done: int, total: int) -> bool:
            nonlocal shown
            bar = bar_text(name, done, total)
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
