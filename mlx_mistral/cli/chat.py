"""`chat`: a window at a terminal; elsewhere one message a line in, streamed replies out."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlx_mistral import __version__
from mlx_mistral.errors import MlxMistralError

from . import options, window
from .generate import load_model_and_tokenizer, write_reply
from .prompt import decode
from .terminal import Progress, note

if TYPE_CHECKING:
    from mlx_mistral.chat import Chat

MAX_TOKENS = 1024
PROMPT = "> "
HELP = "/clear forgets the conversation, /exit or Ctrl-D ends, Ctrl-C stops a reply"
MAX_LINE_BYTES = 16 << 20


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(commands, "chat", does="talk with a model", run=run)
    options.add_model(parser)
    parser.add_argument("--system", metavar="TEXT", help="system prompt")
    options.add_sampling(parser, max_tokens=MAX_TOKENS)
    # What is not given is taken from what a person has set in the window.
    parser.set_defaults(model=None, max_tokens=None, top_p=None)
    parser.add_argument(
        "--plain", action="store_true",
        help="one message a line, whatever stdin and stdout are",
    )  # fmt: skip
    parser.add_argument(
        "--continue", action="store_true", help="open the last conversation, in the window"
    )
    options.add_cache(parser)
    options.add_loading(parser)
    options.add_output(parser, json=False)


def run(args: argparse.Namespace) -> None:
    if window.is_possible() and not args.plain:
        window.open_window(args)
        return
    if getattr(args, "continue"):
        raise MlxMistralError("--continue opens a window; run it at a terminal, without --plain")
    args.model = args.model or options.DEFAULT_MODEL
    chat = _open_chat(args)
    is_person = sys.stdin is not None and sys.stdin.isatty()
    if is_person and not args.plain:
        _talk(args, chat)
        return
    n_messages = 0
    for message in _lines(shows_prompt=is_person and not args.quiet):
        n_messages += 1
        _reply(args, chat, message)
    if not n_messages and not is_person:
        note("nothing came in on stdin; each line there is a message", quiet=args.quiet)


def _open_chat(args: argparse.Namespace) -> Chat:
    model, tokenizer = load_model_and_tokenizer(args, Progress(quiet=args.quiet))
    from mlx_mistral.chat import Chat

    return Chat(
        model,
        tokenizer,
        system=args.system,
        max_tokens=args.max_tokens or MAX_TOKENS,
        temp=args.temp or 0.0,
        top_p=args.top_p or 1.0,
        seed=args.seed,
        context=args.context,
        kv_bits=args.kv_bits,
        tell=note,
    )


def _lines(*, shows_prompt: bool) -> Iterator[str]:
    """The messages on stdin, without empty lines. Raises: MlxMistralError: one is no text."""
    if sys.stdin is None:
        return
    number = 0
    while True:
        if shows_prompt:
            print(PROMPT, end="", file=sys.stderr, flush=True)
        raw = sys.stdin.buffer.readline(MAX_LINE_BYTES + 1)
        if not raw:
            break
        number += 1
        if len(raw) > MAX_LINE_BYTES:
            raise MlxMistralError(f"more than {MAX_LINE_BYTES >> 20} MiB, stdin line {number}")
        message = decode(raw, f"stdin line {number}").strip()
        if message:
            yield message
    if shows_prompt:
        print(file=sys.stderr)


def _talk(args: argparse.Namespace, chat: Chat) -> None:
    """With a person at a terminal: editing, commands, and replies that can be stopped."""
    note(f"mlx-mistral {__version__}, {args.model}. {HELP}.", quiet=args.quiet)
    while (line := _ask()) is not None:
        message = line.strip()
        if message in ("/exit", "/quit"):
            return
        if message == "/clear":
            chat.clear()
        elif message == "/help":
            note(HELP)
        elif message:
            _reply_or_explain(args, chat, message)


def _ask() -> str | None:
    """The next line, or None at the end of input."""
    try:
        if not sys.stdout.isatty():
            print(PROMPT, end="", file=sys.stderr, flush=True)
            return sys.stdin.readline() or None
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives input() its line editing and history
        return input(PROMPT)
    except EOFError:
        print(file=sys.stderr)
        return None
    except UnicodeDecodeError as error:
        raise MlxMistralError("not UTF-8 text, typed at the terminal; check its locale") from error


def _reply_or_explain(args: argparse.Namespace, chat: Chat, message: str) -> None:
    """A message that cannot be answered, or a stopped reply, does not end the conversation."""
    try:
        _reply(args, chat, message)
    except KeyboardInterrupt:
        note("stopped")
    except MlxMistralError as error:
        note(f"error: {error}")


def _reply(args: argparse.Namespace, chat: Chat, message: str) -> None:
    progress = Progress(quiet=args.quiet)
    last = write_reply(chat.send(message, progress=progress.prefill), progress)
    if sys.stderr.isatty():
        speed = f"{last.generation_tokens} tokens, {last.generation_tps:.0f} tokens/s"
        is_cut = last.generation_tokens >= (args.max_tokens or MAX_TOKENS)
        cut = "; --max-tokens ended it" if is_cut and last.finish_reason == "length" else ""
        note(f"{speed}{cut}", quiet=args.quiet)
