"""The window in a real pseudo-terminal, with the bundled model."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line
from pseudo_terminal import CHAT, CTRL_Q, ENTER, ESCAPE, PseudoTerminal

from mlx_mistral.cli import window
from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Message, Tree

QUESTION = "What is a sliding window?"
ANY_TOKEN_TEMPERATURE = "1000000"
"""All tokens are as likely: a long reply, which depends on the seed alone."""


def kept(home: Path) -> tuple[Tree, list[Message]]:
    """The last conversation and its branch that was read."""
    with Store(home / "sessions.sqlite3") as store:
        last = store.last()
        assert last is not None
        tree = store.tree(last.id)
    return tree, tree.path()


def test_a_conversation_is_held_stopped_edited_branched_kept_and_continued(tmp_path: Path) -> None:
    with PseudoTerminal(tmp_path, *CHAT, "--temp", "0", "--seed", "4") as terminal:
        terminal.until("Write a message")
        terminal.type(QUESTION + ENTER)
        terminal.until("tokens/s")

        terminal.type(f"/temp {ANY_TOKEN_TEMPERATURE}{ENTER}")
        terminal.until("temperature: 1000000")
        terminal.type("Go on" + ENTER)
        terminal.until(lambda text: "tokens, " in text and "a second" in text)
        terminal.type(ESCAPE)
        terminal.until("· stopped")

        terminal.type(f"/temp 0{ENTER}")
        terminal.until("temperature: 0")
        terminal.type(f"/edit 1{ENTER}")
        terminal.until(f"│ {QUESTION}")
        terminal.type(" Explain." + ENTER)
        terminal.until("You · 2 of 2")
        terminal.until("tokens/s")
        assert "Go on" not in terminal.text

        terminal.type(f"/branch{ENTER}")
        terminal.until("· stopped")
        terminal.type(CTRL_Q)
        assert terminal.wait() == 0
        assert not terminal.screen.stray
        assert b"Traceback" not in terminal.output

    tree, (question, answer, _, stopped) = kept(tmp_path)
    assert (question.role, question.content) == ("user", QUESTION)
    assert "window" in answer.content
    assert stopped.complete
    assert stopped.statistics is not None
    assert stopped.statistics.reason == "stopped"
    assert {m.content for m in tree.messages.values() if m.parent is None} == {
        QUESTION,
        f"{QUESTION} Explain.",
    }

    stated = ("--temp", "0.5", "--top-p", "1", "--max-tokens", "7", "--kv-bits", "8")
    again = (*CHAT, "demo", "--continue", *stated, "--system", "", "--seed", "3")
    with PseudoTerminal(tmp_path, *again, size=(100, 60)) as terminal:
        terminal.until("You · 1 of 2")
        terminal.until(answer.content[:40])
        terminal.until("Go on")
        terminal.type("More" + ENTER)
        terminal.until("wrote 7 at")
        terminal.type(CTRL_Q)
        assert terminal.wait() == 0
    with Store(tmp_path / "sessions.sqlite3") as store:
        last = store.last()
        assert last is not None
        assert last.settings == {
            "temperature": 0.5, "top_p": 1.0, "max_tokens": 7, "seed": 3, "system": "",
            "cache_bits": 8,
        }  # fmt: skip


def test_there_must_be_something_to_continue(tmp_path: Path) -> None:
    with PseudoTerminal(tmp_path, *CHAT, "--continue") as terminal:
        assert terminal.wait() == 1
        assert b"no conversation to continue" in terminal.output
        assert b"Traceback" not in terminal.output


def test_a_window_needs_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not window.is_possible()
    assert failed_in_one_line(run("chat", "--continue"))
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert not window.is_possible()
    monkeypatch.setenv("TERM", "xterm")
    assert window.is_possible()
