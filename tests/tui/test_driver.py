"""What a terminal sends, and when it is taken as typed."""

from __future__ import annotations

import io
import os
import time
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import ScriptedEngine
from textual.app import App
from textual.events import Key, Paste, Resize

from mlx_mistral.tui.app import ChatApp
from mlx_mistral.tui.driver import LOOK_SECONDS, Output, TerminalDriver, waiting_seconds
from mlx_mistral.tui.terminal_parser import TerminalParser


class Told(TerminalDriver):
    """Reads keys from a pipe. Whoever looks for the end sees it once the pipe is closed."""

    def __init__(self, fileno: int) -> None:
        self.fileno = fileno
        self.told: list[Any] = []
        self.left = False
        self._in_band_window_resize = False
        self.size = (0, 0)
        self.exit_event = SimpleNamespace(is_set=lambda: self.left)  # type: ignore[assignment]
        self._app: Any = SimpleNamespace(
            call_later=lambda call: call(), exit=self._leave, post_message=self.told.append
        )

    def process_message(self, message: Any) -> None:
        self.told.append(message)

    def _leave(self) -> None:
        self.left = True

    def _get_terminal_size(self) -> tuple[int, int]:
        return self.size


@pytest.mark.parametrize(
    ("sent", "keys"),
    [
        (b"ab", ["a", "b"]),
        (b"\x1b[A", ["up"]),
        ("é€".encode(), ["é", "€"]),
        (b"a\xffb", ["a", "\N{REPLACEMENT CHARACTER}", "b"]),
    ],
)
def test_keys_are_told_and_a_terminal_that_is_gone_ends_the_window(
    sent: bytes, keys: list[str]
) -> None:
    ours, theirs = os.pipe()
    os.write(theirs, sent)
    os.close(theirs)
    driver = Told(ours)
    driver.run_input_thread()
    os.close(ours)
    assert driver.left
    told = [message.character or message.key for message in driver.told if isinstance(message, Key)]
    assert told == keys


def test_an_escape_that_nothing_follows_is_waited_for_no_longer_than_its_delay() -> None:
    parser = TerminalParser()
    assert waiting_seconds(parser) == LOOK_SECONDS
    assert list(parser.feed("\x1b")) == []
    assert waiting_seconds(parser) <= LOOK_SECONDS
    parser._timeout_time = time.monotonic() - 1.0
    assert waiting_seconds(parser) == 0.0
    assert [message.key for message in parser.tick() if isinstance(message, Key)] == ["escape"]
    assert waiting_seconds(parser) == LOOK_SECONDS


def test_the_size_is_the_one_there_is_when_its_turn_comes() -> None:
    driver = Told(0)
    driver.size = (90, 30)
    driver._tell_size()
    driver._in_band_window_resize = True
    driver._tell_size()
    (told,) = driver.told
    assert isinstance(told, Resize)
    assert told.size == (90, 30)


class Gone(io.StringIO):
    """A terminal's file whose terminal has been closed."""

    def flush(self) -> None:
        raise OSError(5, "Input/output error")


def test_what_is_written_to_a_terminal_that_is_gone_goes_nowhere() -> None:
    file = Gone()
    output = Output(file)
    output.write("a line")
    assert not output.is_gone
    output.flush()
    assert output.is_gone
    output.write("another")
    output.flush()
    assert file.getvalue() == "a line"


def test_a_window_at_a_terminal_has_this_driver() -> None:
    default = App().get_driver_class()
    assert ChatApp(ScriptedEngine()).get_driver_class() is TerminalDriver
    assert issubclass(TerminalDriver, default)


PASTED = "\x1b[31mred\r\x11\x1b\x1b[A\x1b[20\x1b[200~ \x1b]52;c;x\x07 1\n2\x1b"


@given(st.lists(st.integers(0, 80), max_size=6))
def test_nothing_that_is_pasted_is_a_key_wherever_it_is_cut(places: list[int]) -> None:
    text = f"a\x1b[A\x1b[200~{PASTED}\x1b[201~b\x1b[200~next\x1b[201~"
    parser, told = TerminalParser(), []
    for start, end in pairwise([0, *sorted(places), len(text)]):
        told += parser.feed(text[start:end])
    assert [m.key for m in told if isinstance(m, Key)] == ["a", "up", "b"]
    assert [m.text for m in told if isinstance(m, Paste)] == ["red\n[20  1\n2", "next"]
