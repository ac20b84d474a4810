"""The window where its terminal is shaken or torn away, or its store is shared."""

from __future__ import annotations

import random
import re
import signal
import time
from pathlib import Path

from pseudo_terminal import CHAT, CTRL_Q, ENTER, ESCAPE, PseudoTerminal

from mlx_mistral.sessions.store import Store
from mlx_mistral.sessions.tree import Message

ANY_TOKEN = ("--temp", "1000000", "--seed", "4", "--max-tokens", "9999")
"""All tokens are as likely: a long reply of any letters, which depends on the seed alone."""
SAVED_WITHIN_SECONDS = 1.0
SIZES = [(1, 1), (2, 50), (500, 200), (300, 1), (1, 60), (80, 24), (7, 3), (140, 45)]


def n_tokens(text: str) -> int:
    """How many tokens of a reply the line at the composer counts."""
    found = re.search(r"([\d,]+) tokens, [\d,.]+ a second", text)
    return int(found[1].replace(",", "")) if found else 0


def letters(text: str) -> str:
    """Markdown and line breaks may change the rest."""
    return "".join(letter for letter in text if letter.isalpha())


def last_lines(text: str) -> list[str]:
    """Letters of the last lines of the reply that is being made."""
    reply = text.partition("╭")[0].rpartition("Model")[2]  # the composer's frame is below it
    return [line for line in map(letters, reply.splitlines()) if line][-3:]


def replies(home: Path) -> list[Message]:
    """The last message of each conversation, the newest first."""
    with Store(home / "sessions.sqlite3") as store:
        return [store.tree(session.id).path()[-1] for session in store.sessions()]


def begin_a_long_reply(terminal: PseudoTerminal) -> None:
    terminal.until("Write a message")
    terminal.type("Go on" + ENTER)
    terminal.until(lambda text: n_tokens(text) > 100)


def test_a_terminal_that_changes_size_and_goes_away_takes_nothing_along(tmp_path: Path) -> None:
    chance = random.Random(0)
    with PseudoTerminal(tmp_path, *CHAT, *ANY_TOKEN) as terminal:
        begin_a_long_reply(terminal)
        tokens = n_tokens(terminal.text)
        for n_storms in range(4):
            for width, height in chance.sample(SIZES, k=4):
                n_bytes = len(terminal.output)
                terminal.resize(width, height)
                terminal.until(lambda text, before=n_bytes: len(terminal.output) > before)
            terminal.resize(90 + n_storms, 24)
            terminal.until(lambda text, before=tokens: n_tokens(text) > before)
            tokens = n_tokens(terminal.text)
        terminal.until(lambda text: n_tokens(text) > tokens + 20)
        seen = last_lines(terminal.text)
        assert not terminal.screen.stray
        assert b"Traceback" not in terminal.output
        terminal.hang_up()
        assert terminal.wait() == -signal.SIGHUP
    (reply,) = replies(tmp_path)
    assert reply.complete
    assert seen
    for line in seen:
        assert line in letters(reply.content)


def test_a_killed_window_loses_a_second_at_most_and_another_goes_on(tmp_path: Path) -> None:
    with (
        PseudoTerminal(tmp_path, *CHAT, *ANY_TOKEN) as killed,
        PseudoTerminal(tmp_path, *CHAT, *ANY_TOKEN) as other,
    ):
        begin_a_long_reply(other)
        begin_a_long_reply(killed)
        seen, at = last_lines(killed.text), time.monotonic()
        killed.until(lambda text: time.monotonic() - at > SAVED_WITHIN_SECONDS)
        killed.kill()

        tokens = n_tokens(other.text)
        other.until(lambda text: n_tokens(text) > tokens)
        other.type(ESCAPE)
        other.until("· stopped")
        other.type(CTRL_Q)
        assert other.wait() == 0
    stopped, cut_off = sorted(replies(tmp_path), key=lambda reply: not reply.complete)
    assert stopped.complete
    assert not cut_off.complete
    assert seen
    for line in seen:
        assert line in letters(cut_off.content)
