"""The terminal: keys as soon as they are typed, its size as it is last, and its end."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import selectors
import signal
import time
from typing import IO, TYPE_CHECKING, Any

from textual import events
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size

from .terminal_parser import TerminalParser

if TYPE_CHECKING:
    from textual.app import App

READ_BYTES = 4096
LOOK_SECONDS = 0.1
"""How often the thread that waits for keys sees whether the window is being closed."""


class Output:
    """A terminal's file. What is written once the terminal is gone goes nowhere."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.is_gone = False

    def write(self, text: str) -> None:
        self._try(lambda: self._file.write(text))

    def flush(self) -> None:
        self._try(self._file.flush)

    def fileno(self) -> int:
        return self._file.fileno()

    def _try(self, act: Any) -> None:
        if self.is_gone:
            return
        try:
            act()
        except OSError:
            self.is_gone = True


class TerminalDriver(LinuxDriver):
    """Textual's, but for three things.

    An Escape that nothing follows is one after `ESCDELAY`, not at the next look a tenth of a
    second later. After many changes of size the last one holds: the size is asked for when its
    turn comes, not within the signal, which another may interrupt. A terminal that is gone, or
    sends what is no UTF-8, breaks nothing: the window is left, the letters are replaced.
    """

    def __init__(
        self,
        app: App[Any],
        *,
        debug: bool = False,
        mouse: bool = True,
        size: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(app, debug=debug, mouse=mouse, size=size)
        self._file: Any = Output(self._file)

    def start_application_mode(self) -> None:
        super().start_application_mode()
        loop = asyncio.get_running_loop()

        def resized(*_: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._tell_size)

        signal.signal(signal.SIGWINCH, resized)
        resized()

    def run_input_thread(self) -> None:
        """Reads keys until the window is closed or the terminal is gone."""
        parser = TerminalParser()
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        with selectors.SelectSelector() as selector:  # other kinds take no terminal on macOS
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if selector.select(waiting_seconds(parser)):
                    data = self._read()
                    if not data:
                        self._app.call_later(self._app.exit)
                        return
                    # A part of a letter alone is no text yet, and no text would end the parser.
                    if text := decoder.decode(data):
                        self._hand_over(parser.feed(text))
                self._hand_over(parser.tick())

    def _read(self) -> bytes:
        """What was typed; nothing where there will never be more."""
        try:
            return os.read(self.fileno, READ_BYTES)
        except OSError:
            return b""

    def _hand_over(self, messages: Any) -> None:
        for message in messages:
            self.process_message(message)

    def _tell_size(self) -> None:
        if self._in_band_window_resize:
            return  # the terminal sends its size by itself
        size = Size(*self._get_terminal_size())
        self._app.post_message(events.Resize(size, size))


def waiting_seconds(parser: TerminalParser) -> float:
    """How long a parser can be left alone: it may wait for the rest of a key."""
    due = parser._timeout_time
    return LOOK_SECONDS if due is None else min(max(due - time.monotonic(), 0.0), LOOK_SECONDS)
