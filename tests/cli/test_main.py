from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import Run, failed_in_one_line

import mlx_mistral
from mlx_mistral.cli import main as program
from mlx_mistral.errors import CheckpointError

PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job ignores it
from mlx_mistral.cli.main import main
sys.exit(main())
"""


def start(*args: str | Path, **options: object) -> subprocess.Popen[bytes]:
    """The program in a process of its own."""
    root = str(Path(mlx_mistral.__file__).parents[1])
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", PROGRAM, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
        **options,
    )


def test_the_version_is_the_packages(run: Run) -> None:
    ended = run("--version")
    assert (ended.status, ended.out) == (0, f"mlx-mistral {mlx_mistral.__version__}\n")


def test_no_command_shows_the_help_and_is_wrong_usage(run: Run) -> None:
    ended = run()
    assert (ended.status, ended.out) == (2, "")
    assert "generate" in ended.err


@pytest.mark.parametrize("command", ["generate", "chat", "info", "tokens"])
def test_a_model_that_is_nowhere_is_one_line(run: Run, command: str) -> None:
    ended = run(command, "no-such-model", stdin=b"Hello\n")
    assert failed_in_one_line(ended)
    assert "no-such-model" in ended.err


@pytest.mark.parametrize("command", ["generate", "chat", "info", "tokens"])
def test_an_empty_folder_is_one_line(run: Run, command: str, tmp_path: Path) -> None:
    assert failed_in_one_line(run(command, tmp_path, stdin=b"Hello\n"))


def test_a_message_stays_on_its_line_whatever_it_quotes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: object) -> None:
        raise CheckpointError("bad tensor \x1b[2J\nname,\r\n x.safetensors; get it again")

    monkeypatch.setattr(program.info, "run", fail)
    ended = run("info")
    assert ended.err == "error: bad tensor [2J name, x.safetensors; get it again\n"


def test_a_fault_of_the_program_is_one_line_and_a_traceback_with_debug(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(args: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(program.info, "run", fail)
    ended = run("info")
    assert failed_in_one_line(ended)
    assert "ZeroDivisionError" in ended.err
    with pytest.raises(ZeroDivisionError):
        run("info", "--debug")


def test_an_interruption_is_status_130_and_the_text_so_far_stays(tiny: Path) -> None:
    process = start("generate", tiny, "-p", "Hello", "--max-tokens", "1000000")
    assert process.stdout is not None
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    rest, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(first) == 20
    assert rest.endswith(b"\n")
    assert b"Traceback" not in err


def test_a_reader_that_had_enough_is_no_error(tiny: Path) -> None:
    process = start("generate", tiny, "-p", "Hello", "--max-tokens", "100000", "--quiet")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(20)
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr.read() == b""


def test_help_into_a_closed_pipe_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "mlx_mistral", "generate", "--help"],
        stdout=writing, stderr=subprocess.PIPE, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(mlx_mistral.__file__).parents[1])},
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_text_is_utf8_whatever_the_locale_says(tiny: Path) -> None:
    process = start("tokens", tiny, "-p", "é€😀", stdin=subprocess.DEVNULL)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "é" in out.decode("utf-8")
