"""A window in a terminal of its own, with a model that says what it is told: FILE holds a text.

Whatever a stranger has a say in is that text: replies, likely tokens, names and errors of models.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from scripted import ScriptedEngine, finished, loaded

from mlx_mistral.live.commands import Command, Load, Reply
from mlx_mistral.live.events import Alternative, Event, LoadFailed, Piece, Reading
from mlx_mistral.sessions.store import Store
from mlx_mistral.tui.pickers.model_rows import ModelRow, Report
from mlx_mistral.tui.window import ChatWindow

PIECE_LETTERS = 7


class Models:
    """One model, of a strange name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def rows(self) -> Sequence[ModelRow]:
        return [ModelRow(name=self._name, is_cached=True)]

    def pull(self, name: str, report: Report) -> None:
        report(1, 1)


def open_window(text: str) -> None:
    """Runs until the window is closed."""

    def says(command: Command) -> Iterable[Event]:
        if isinstance(command, Load) and command.model != "demo":
            yield LoadFailed(model=command.model, error=f"{text}refused")
        elif isinstance(command, Load):
            yield loaded("demo")
        elif isinstance(command, Reply):
            yield Reading(id=command.id, done=1, total=1, reused=0)
            for n, at in enumerate(range(0, len(text), PIECE_LETTERS)):
                part = text[at : at + PIECE_LETTERS]
                likely = (Alternative(token=n, text=part, probability=0.6),
                          Alternative(token=n + 1, text=text, probability=0.3))  # fmt: skip
                yield Piece(id=command.id, token=n, text=part, probability=0.6, alternatives=likely)
            yield finished(command.id)

    with Store() as store:
        app = ChatWindow(ScriptedEngine(says), store)
        app.models = Models(text)
        app.run()


if __name__ == "__main__":
    open_window(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
