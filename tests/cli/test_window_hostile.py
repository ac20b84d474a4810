"""What a terminal is sent where a model, its names and a clipboard try to command it."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path

from pseudo_terminal import CTRL_Q, ENTER, ESCAPE, PseudoTerminal

WINDOW = Path(__file__).parents[1] / "tui" / "talking_window.py"
CTRL_O, F5, F9, RIGHT = "\x0f", "\x1b[15~", "\x1b[20~", "\x1b[C"
MARK = "31337"
"""Is in every sequence that is not the program's own."""

COMMANDS = [
    f"\x1b[{MARK}m", f"\x1b[{MARK};1H", f"\x1b[?{MARK}h", f"\x9b{MARK}A", f"\x1b[>{MARK}u",
    f"\x1b]0;{MARK}\x07", f"\x1b]8;;http://{MARK}.test\x1b\\link\x1b]8;;\x1b\\",
    f"\x1b]52;c;{MARK}\x07", f"\x9d52;c;{MARK}\x9c", f"\x1bP{MARK}q\x1b\\", f"\x1b_{MARK}\x1b\\",
    f"\x1b^{MARK}\x1b\\", f"\x1bX{MARK}\x1b\\", f"\x1b]1337;File={MARK}\x07", "\x1bc", "\x1b(0",
    "\x1b#8", "\x0e", "\x07", "\x08\x08", "\x0c", "\x0b", "\x00", "\x7f", "\x84", "\x85",
]  # fmt: skip
TEXTS = [
    f"[link=http://{MARK}.test]x[/link]", "[@click=app.quit]x[/]", f"[bold on rgb({MARK},0,0)]x[/]",
    f"[x](http://{MARK}.test)", f"<http://{MARK}.test>", f"&#27;[{MARK}m", "&#x1b;]52;c;x&#7;",
    "\u202eturned\u2066", "שלום مرحبا", "日本語" * 9, "e" + "\u0301" * 30, "👩‍👩‍👧‍👦", 
    "\ud800", "\ufeff",
    "long " * 60, "l" * 400, f"```x\n\x1b[{MARK}m code\n```",
    f"| \x1b[{MARK}m | b |\n|-|-|\n| c | d |\n",
]  # fmt: skip
HOSTILE = " ".join([*COMMANDS, "\n\n".join(TEXTS)])

SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]P^_X][^\x07\x1b]*(?:\x07|\x1b\\)?|.)", re.DOTALL
)
OWN = re.compile(r"\x1b\[[\d;:<>=?$]*[A-Za-z~]|\x1b\[\?\d+\$p|\x1b[78=>]|\x1b\]22;\w+\x07")
"""Colours, places, modes and the pointer's shape, which are all that a window needs."""


def leave(terminal: PseudoTerminal, shown: str) -> None:
    """Closes the screen that shows a text."""
    terminal.type(ESCAPE)
    terminal.until(lambda text: shown not in text)


def test_nothing_of_a_stranger_commands_the_terminal(tmp_path: Path) -> None:
    said = tmp_path / "said.json"
    said.write_text(json.dumps(f"{HOSTILE}\n\nall is said"), encoding="utf-8")
    (tmp_path / f"file\x1b]0;{MARK}\x07\x1b[{MARK}m\u202e\x9b.txt").write_text("x")
    (tmp_path / "file.txt").write_text("x")
    with PseudoTerminal(tmp_path, str(WINDOW), str(said), size=(100, 30)) as terminal:
        terminal.until("Write a message")
        terminal.type(F9)
        terminal.until("Tokens are watched")
        terminal.paste(HOSTILE.replace("\ud800", "") + "\nall is pasted")
        terminal.until("all is pasted")
        terminal.type(ENTER)
        terminal.until(lambda text: "all is said" in text and "tokens/s" in text)
        terminal.type(F9)
        terminal.until("token ")
        terminal.type(RIGHT * 3)
        terminal.until("token 4 of")
        leave(terminal, "token 4 of")
        terminal.type(CTRL_O)
        terminal.until("Conversations")
        leave(terminal, "Conversations")
        terminal.type(F5)
        terminal.until("bits fits?")
        leave(terminal, "─ Models ─")  # rows come and go while they are read; the title stays
        terminal.type(f"/model {MARK}{ENTER}")
        terminal.until("refused")
        terminal.type("@fi")
        terminal.until("@file.txt")
        terminal.resize(60, 20)
        terminal.until("@file.txt")
        terminal.type(CTRL_Q)
        assert terminal.wait() == 0
        sent = terminal.output.decode("utf-8")
        assert not terminal.screen.stray

    sequences = SEQUENCE.findall(sent)
    assert len(sequences) > 1000
    assert not [each for each in sequences if MARK in each or not OWN.fullmatch(each)]
    plain = SEQUENCE.sub("", sent)
    assert MARK in plain  # what was markup is shown as it is
    assert not {c for c in plain if unicodedata.category(c) == "Cc"} - set("\r\n\t")
    assert not set(plain) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
