"""Parses the command line and runs one command. Errors are printed here and nowhere else."""

from __future__ import annotations

import argparse
import enum
import os
import sys
from collections.abc import Sequence
from typing import TextIO

from mlx_mistral import __version__
from mlx_mistral.errors import MlxMistralError

from . import bench, chat, convert, doctor, evaluate, fit, generate, info, models, tokens
from .terminal import one_line

COMMANDS = (chat, generate, convert, fit, bench, evaluate, info, tokens, models, doctor)


class ExitStatus(enum.IntEnum):
    """What the shell gets back."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line (default: the process's own). Returns its exit status.

    Raises: SystemExit: after `--help` or `--version`, or with status 2 for wrong usage.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    try:
        _write_utf8(sys.stdout)
        args = _parse(argv)
        args.run(args)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _flush_quietly()
        if sys.stderr.isatty():
            print(file=sys.stderr)
        return ExitStatus.INTERRUPTED
    except BrokenPipeError:
        # The reader had enough, as `head` does; nothing is left to be said to anyone.
        _discard_stdout()
    except Exception as error:
        if debug:
            raise
        _flush_quietly()
        print(f"error: {describe(error)}", file=sys.stderr)
        return ExitStatus.FAILED
    return ExitStatus.DONE


def build_parser() -> argparse.ArgumentParser:
    """The whole grammar; loads no library."""
    parser = argparse.ArgumentParser(
        prog="mlx-mistral",
        description="Runs Mistral's open-weight models. MODEL is a folder, a Hub repository "
        "org/name[@revision], an alias such as mistral-7b, or demo, the small model that is "
        "part of this program; left out, it is demo.",
        epilog="mlx-mistral COMMAND --help tells the flags of a command.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"mlx-mistral {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        command.add_to(commands)
    return parser


def describe(error: Exception) -> str:
    """What went wrong, on one line that no file name or checkpoint can turn into two."""
    if isinstance(error, MlxMistralError):
        return one_line(str(error))
    if isinstance(error, OSError) and error.strerror:
        place = f", {error.filename}" if error.filename else ""
        return one_line(f"{error.strerror}{place}; --debug shows where it happened")
    kind = type(error).__name__
    return one_line(f"{kind}: {error}; this should not happen: --debug shows where it did")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    try:
        args = parser.parse_args(argv)
    except SystemExit:
        sys.stdout.flush()
        raise
    if args.command is None:
        parser.print_help(sys.stderr)
        sys.exit(ExitStatus.USAGE)
    return args


def _write_utf8(stream: TextIO) -> None:
    """Text is UTF-8 whatever the locale says; a letter must not stop a reply."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(encoding="utf-8", errors="replace")


def _flush_quietly() -> None:
    try:
        sys.stdout.flush()
    except OSError:
        _discard_stdout()


def _discard_stdout() -> None:
    """Python flushes once more at exit, which must not fail again."""
    try:
        target = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, target)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
