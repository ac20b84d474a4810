from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

import mlx_mistral
from mlx_mistral import Chat, load

SHORT = ("--max-tokens", "6")
LONGEST_SILENCE_SECONDS = 60
CTRL_C, CTRL_D = b"\x03", b"\x04"
AT_A_TERMINAL = """
import fcntl, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # so that Ctrl-C reaches this process
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from mlx_mistral.cli.main import main
sys.exit(main())
"""


def replies(folder: Path, *messages: str, system: str | None = None) -> list[str]:
    chat = Chat(*load(str(folder)), system=system, max_tokens=6)
    return ["".join(response.text for response in chat.send(message)) for message in messages]


def as_lines(texts: list[str]) -> str:
    return "".join(text if text.endswith("\n") or not text else f"{text}\n" for text in texts)


@pytest.mark.parametrize("flags", [[], ["--plain"]], ids=["pipe", "plain"])
def test_each_line_is_a_message_of_one_conversation(run: Run, tiny: Path, flags: list[str]) -> None:
    ended = run("chat", tiny, *SHORT, *flags, stdin="Hello\n\nEncore une fois é\n/help".encode())
    expected = replies(tiny, "Hello", "Encore une fois é", "/help")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == as_lines(expected)


def test_a_system_prompt_is_heard(run: Run, tiny: Path) -> None:
    ended = run("chat", tiny, *SHORT, "--system", "Be brief.", stdin=b"Hello\n")
    assert ended.out == as_lines(replies(tiny, "Hello", system="Be brief."))
    assert ended.out != as_lines(replies(tiny, "Hello"))


def test_the_end_of_input_ends_the_chat(run: Run, tiny: Path) -> None:
    ended = run("chat", tiny)
    assert (ended.status, ended.out) == (0, "")
    assert "nothing came in" in ended.err


def test_a_line_that_is_no_text_ends_it_with_one_error(run: Run, tiny: Path) -> None:
    ended = run("chat", tiny, *SHORT, stdin=b"\xff\xfe\n")
    assert failed_in_one_line(ended)
    assert "line 1" in ended.err


def test_a_message_beyond_the_context_is_one_error(run: Run, tiny: Path) -> None:
    ended = run("chat", tiny, *SHORT, "--context", "10", stdin=b"Hello " * 50)
    assert failed_in_one_line(ended)


def at_a_terminal(*args: str | Path, keys: list[bytes]) -> tuple[int, bytes]:
    """Status and screen of the program on a terminal.

    Each entry is typed at a prompt; Ctrl-C is typed when a reply has begun.
    """
    ours, theirs = pty.openpty()
    root = str(Path(mlx_mistral.__file__).parents[1])
    process = subprocess.Popen(
        [sys.executable, "-c", AT_A_TERMINAL, *map(str, args)],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "PYTHONPATH": root, "TERM": "dumb"},
    )  # fmt: skip
    os.close(theirs)
    screen, typed = b"", 0
    waiting = list(keys)
    while True:
        if not select.select([ours], [], [], LONGEST_SILENCE_SECONDS)[0]:
            process.kill()
            raise TimeoutError(screen)
        try:
            part = os.read(ours, 4096)
        except OSError:  # Linux: the other side is closed
            break
        if not part:
            break
        screen += part
        is_prompt = screen.endswith(b"> ")
        if waiting and (len(screen) > typed + 200 if waiting[0] == CTRL_C else is_prompt):
            os.write(ours, waiting.pop(0))
            typed = len(screen)
    os.close(ours)
    return process.wait(timeout=60), screen


def test_a_person_at_a_terminal_gets_prompts_commands_and_replies(tiny: Path) -> None:
    keys = [b"Hello\n", b"/help\n", b"/clear\n", b"Hello\n", b"/exit\n"]
    status, screen = at_a_terminal("chat", tiny, *SHORT, keys=keys)
    assert status == 0, screen
    assert screen.count(b"forgets the conversation") == 2
    assert screen.count(b"tokens/s") == 2


def test_a_message_that_does_not_fit_does_not_end_a_conversation(tiny: Path) -> None:
    keys = [b"Hello " * 50 + b"\n", b"Hi\n", CTRL_D]
    status, screen = at_a_terminal("chat", tiny, *SHORT, "--context", "14", keys=keys)
    assert status == 0, screen
    assert screen.count(b"error: ") == 1
    assert screen.count(b"tokens/s") == 1


def test_plain_mode_at_a_terminal_treats_every_line_as_a_message(tiny: Path) -> None:
    status, screen = at_a_terminal("chat", tiny, *SHORT, "--plain", keys=[b"/help\n", CTRL_D])
    assert status == 0, screen
    assert b"forgets the conversation" not in screen


def test_an_interrupted_reply_does_not_end_a_conversation(tiny: Path) -> None:
    keys = [b"Hello\n", CTRL_C, b"/clear\n", b"Hi\n", CTRL_C, CTRL_D]
    status, screen = at_a_terminal("chat", tiny, "--max-tokens", "1000000", keys=keys)
    assert status == 0, screen
    assert screen.count(b"stopped") == 2
    assert b"Traceback" not in screen


def test_an_interruption_at_the_prompt_ends_it_with_130(tiny: Path) -> None:
    status, screen = at_a_terminal("chat", tiny, "--system", "x" * 300, *SHORT, keys=[b"\x03\n"])
    assert status == 130, screen
    assert b"Traceback" not in screen
