"""The window in a real pseudo-terminal, with the bundled model."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

import mlx_mistral
from mlx_mistral.cli import window
from mlx_mistral.sessions.store import Store

LONGEST_SILENCE_SECONDS = 60
ENTER, CTRL_Q = b"\r", b"\x11"


def in_a_terminal(home: Path, *args: str, script: list[tuple[bytes, bytes]]) -> tuple[int, bytes]:
    """Status and output of the program; each entry is typed once its first part has appeared."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlx_mistral", "chat", *args],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(mlx_mistral.__file__).parents[1]),
             "TERM": "xterm-256color", "MLX_MISTRAL_HOME": str(home)},
    )  # fmt: skip
    os.close(theirs)
    output, seen, waiting = b"", 0, list(script)
    while True:
        if not select.select([ours], [], [], LONGEST_SILENCE_SECONDS)[0]:
            process.kill()
            raise TimeoutError(output[-2000:])
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        output += part
        if waiting and (place := output.find(waiting[0][0], seen)) >= 0:
            seen = place + len(waiting[0][0])
            os.write(ours, waiting.pop(0)[1])
    os.close(ours)
    assert not waiting, output[-2000:]
    return process.wait(timeout=60), output


def test_a_conversation_is_held_kept_and_continued(tmp_path: Path) -> None:
    question = b"What is a sliding window?"
    status, output = in_a_terminal(
        tmp_path,
        script=[(b"Write a message", question + ENTER), (b"tokens/s", CTRL_Q)],
    )
    assert status == 0, output[-2000:]
    with Store(tmp_path / "sessions.sqlite3") as store:
        last = store.last()
        assert last is not None
        said = [(message.role, message.content) for message in store.tree(last.id).path()]
    assert said[0] == ("user", question.decode())
    assert "window" in said[1][1] or "token" in said[1][1]
    status, output = in_a_terminal(
        tmp_path, "--continue", script=[(said[1][1].split()[0].encode(), CTRL_Q)]
    )
    assert status == 0, output[-2000:]


def test_there_must_be_something_to_continue(tmp_path: Path) -> None:
    status, output = in_a_terminal(tmp_path, "--continue", script=[])
    assert status == 1
    assert b"no conversation to continue" in output
    assert b"Traceback" not in output


def test_a_window_needs_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not window.is_possible()
    assert failed_in_one_line(run("chat", "--continue"))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not window.is_possible()
    monkeypatch.setenv("TERM", "xterm")
    assert window.is_possible()
