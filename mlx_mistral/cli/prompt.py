"""Where a command's text comes from: -p, -f or stdin."""

from __future__ import annotations

import argparse
import sys
from typing import BinaryIO

from mlx_mistral.errors import MlxMistralError

MAX_BYTES = 64 << 20
"""Longer than any context of any model; keeps an endless pipe from filling the memory."""


def add_prompt(parser: argparse.ArgumentParser, what: str) -> argparse._MutuallyExclusiveGroup:
    """Adds -p and -f; whatever joins the returned group excludes them."""
    source = parser.add_mutually_exclusive_group()
    source.add_argument("-p", "--prompt", metavar="TEXT", help=f"{what} (default: stdin)")
    source.add_argument("-f", "--file", metavar="FILE", help=f"read {what} from a UTF-8 file")
    return source


def read_text(args: argparse.Namespace) -> str:
    """The text as it was given, to the character. Raises: MlxMistralError: not readable as text."""
    if args.prompt is not None:
        return _checked_argument(args.prompt)
    if args.file is not None and args.file != "-":
        return read_file(args.file)
    if sys.stdin is None:
        raise MlxMistralError("stdin is closed; give the text with -p or -f")
    if sys.stdin.isatty():
        print("Type the text; Ctrl-D on an empty line ends it.", file=sys.stderr)
    return decode(_read_bounded(sys.stdin.buffer, "stdin"), "stdin")


def read_prompt(args: argparse.Namespace) -> str:
    """The prompt: the text without the line break that ends a file or an `echo`.

    Raises: MlxMistralError: not readable as text, or empty.
    """
    text = read_text(args)
    if args.prompt is None:
        text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise MlxMistralError(f"the prompt is empty, {_source(args)}; write what to answer")
    return text


def read_file(path: str, flag: str = "-f") -> str:
    """The text of a file. Raises: MlxMistralError: not there, not readable, not UTF-8."""
    try:
        with open(path, "rb") as file:
            raw = _read_bounded(file, path)
    except FileNotFoundError:
        raise MlxMistralError(f"no such file, {path}; check the path given to {flag}") from None
    except OSError as error:
        raise MlxMistralError(f"{error.strerror}, {path}; check the path given to {flag}") from None
    except ValueError:
        raise MlxMistralError(f"the path given to {flag} holds a NUL; check it") from None
    return decode(raw, path)


def decode(raw: bytes, where: str) -> str:
    """UTF-8 text, without a byte order mark. Raises: MlxMistralError: it is none."""
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise MlxMistralError(
            f"not UTF-8 text at byte {error.start}, {where}; convert it, or give another file"
        ) from None
    if "\0" in text:
        raise MlxMistralError(f"binary data, {where}; a text is expected")
    return text


def _read_bounded(file: BinaryIO, where: str) -> bytes:
    raw = file.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise MlxMistralError(f"more than {MAX_BYTES >> 20} MiB of text, {where}; give less")
    return raw


def _checked_argument(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise MlxMistralError("not UTF-8 text, given to -p; give it with -f or stdin") from None
    return text


def _source(args: argparse.Namespace) -> str:
    if args.prompt is not None:
        return "given to -p"
    return "read from stdin" if args.file in (None, "-") else f"read from {args.file}"
