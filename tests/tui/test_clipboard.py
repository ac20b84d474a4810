"""Copying on a Mac, whose Terminal ignores the escape sequence for the clipboard."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from mlx_mistral.tui import app, clipboard
from mlx_mistral.tui.clipboard import copy_on_mac

HERE = {"TERM_PROGRAM": "Apple_Terminal", "LANG": "C"}


class Programs:
    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[tuple[str, ...], dict[str, Any]]] = []
        self.error = error

    def run(self, command: tuple[str, ...], **options: Any) -> None:
        self.calls.append((command, options))
        if self.error:
            raise self.error


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    programs = Programs()
    monkeypatch.setattr(subprocess, "run", programs.run)
    return programs


def test_a_mac_copies_utf_8_whatever_its_locale(programs: Programs) -> None:
    copy_on_mac("Ça va ? 🙂", system="darwin", environment=HERE)
    [(command, options)] = programs.calls
    assert command == ("/usr/bin/pbcopy",)
    assert options["input"] == "Ça va ? 🙂".encode()
    assert options["env"] == {**HERE, "LC_ALL": "en_US.UTF-8"}


@pytest.mark.parametrize(
    ("system", "environment"),
    [("linux", HERE), ("darwin", {**HERE, "SSH_CONNECTION": "10.0.0.1 1 10.0.0.2 22"})],
)
def test_other_machines_have_only_the_escape_sequence(
    system: str, environment: dict[str, str], programs: Programs
) -> None:
    copy_on_mac("text", system=system, environment=environment)
    assert programs.calls == []


@pytest.mark.parametrize("error", [FileNotFoundError(), subprocess.TimeoutExpired("pbcopy", 2)])
def test_a_pbcopy_that_fails_stops_nothing(error: Exception, programs: Programs) -> None:
    programs.error = error
    copy_on_mac("lone \ud800 surrogate", system="darwin", environment=HERE)
    assert len(programs.calls) == 1


def test_the_chat_screen_copies_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    copies: list[str] = []
    monkeypatch.setattr(app, "copy_on_mac", copies.append)
    monkeypatch.setattr(app.App, "copy_to_clipboard", lambda _, text: copies.append(f"OSC {text}"))
    app.ChatApp.copy_to_clipboard(object.__new__(app.ChatApp), "text")
    assert copies == ["OSC text", "text"]
    assert clipboard.COPY_SECONDS > 0
