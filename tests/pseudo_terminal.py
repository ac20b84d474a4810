"""A program in a real pseudo-terminal, and a way to wait for what it shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from terminal_screen import TerminalScreen

import mlx_mistral

LONGEST_WAIT_SECONDS = 60.0
ENTER, ESCAPE, CTRL_Q = "\r", "\x1b", "\x11"
CHAT = ("-m", "mlx_mistral", "chat")


class PseudoTerminal:
    """Runs `python ARGUMENTS` at a terminal of `size` (columns, rows), its data in `home`.

    The terminal is the program's controlling one: a change of its size and its end are signalled.
    """

    def __init__(
        self,
        home: Path,
        *arguments: str,
        size: tuple[int, int] = (80, 24),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.screen = TerminalScreen(*size)
        self.output = b""
        self._ours, theirs = pty.openpty()
        self._set_size(*size)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        preloaded = {k: v for k, v in os.environ.items() if k.startswith(("LD_", "DYLD_"))}
        self.process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=theirs, stdout=theirs, stderr=theirs, cwd=home, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env={**kept, **preloaded, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8",
                 "PYTHONPATH": str(Path(mlx_mistral.__file__).parents[1]),
                 "MLX_MISTRAL_HOME": str(home), **(environment or {})},
        )  # fmt: skip
        os.close(theirs)
        self._is_open = True

    def __enter__(self) -> PseudoTerminal:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.hang_up()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    @property
    def text(self) -> str:
        """What the screen shows."""
        return self.screen.text

    def type(self, text: str) -> None:
        """Keys, or several at once as far as a terminal sends them so."""
        data = text.encode("utf-8", "surrogateescape")
        while data:
            self._read(0)
            _, writable, _ = select.select([], [self._ours], [], LONGEST_WAIT_SECONDS)
            assert writable, f"the program reads no keys; the screen shows\n{self.text}"
            data = data[os.write(self._ours, data[:512]) :]

    def paste(self, text: str) -> None:
        """As a terminal sends what is pasted."""
        self.type(f"\x1b[200~{text}\x1b[201~")

    def until(self, shown: str | Callable[[str], object]) -> None:
        """Waits until the screen shows a text, or fulfils a condition.

        Raises: AssertionError: it never does, or the program ends before.
        """
        condition = (lambda text: shown in text) if isinstance(shown, str) else shown
        end = time.monotonic() + LONGEST_WAIT_SECONDS
        while not condition(self.text):
            if not self._read(max(0.0, end - time.monotonic())):
                raise AssertionError(f"never shown: {shown}; the screen shows\n{self.text}")

    def resize(self, width: int, height: int) -> None:
        """The program is told by the system's signal."""
        self.screen.resize(width, height)
        self._set_size(width, height)

    def hang_up(self) -> None:
        """Closes the terminal as a lost connection does."""
        if self._is_open:
            self._is_open = False
            os.close(self._ours)

    def wait(self) -> int:
        """Reads until the program ends. Returns: its status."""
        while self._is_open and self._read(LONGEST_WAIT_SECONDS):
            pass
        return self.process.wait(timeout=LONGEST_WAIT_SECONDS)

    def kill(self) -> None:
        """Ends the program where it stands."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=LONGEST_WAIT_SECONDS)

    def _read(self, seconds: float) -> bool:
        """Draws what has come; False: nothing came, or nothing will."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        part = b""
        with contextlib.suppress(OSError):  # Linux: the other side is closed
            part = os.read(self._ours, 65536)
        self.output += part
        self.screen.feed(part)
        return bool(part)

    def _set_size(self, width: int, height: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
