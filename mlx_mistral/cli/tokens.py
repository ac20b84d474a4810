"""`tokens`: how a text or a chat becomes ids, piece by piece."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import options
from .prompt import add_prompt, read_file, read_text
from .source import Source, parse_chat
from .terminal import note, write_json, write_lines

if TYPE_CHECKING:
    pass

ID_WIDTH = 7
LONGEST_PIECE = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """One tokenizer's reading of a source."""

    model: str
    version: str
    vocab_size: int
    ids: list[int]
    pieces: list[str]
    controls: list[bool]
    n_chars: int

    @property
    def chars_per_token(self) -> float | None:
        return self.n_chars / len(self.ids) if self.ids else None

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "tokenizer": self.version,
            "ids": self.ids,
            "pieces": self.pieces,
            "count": len(self.ids),
            "chars_per_token": self.chars_per_token,
        }

    def rows(self) -> list[str]:
        return [
            f"{token_id:>{ID_WIDTH}}  {shown(piece, is_control=control)}"
            for token_id, piece, control in zip(self.ids, self.pieces, self.controls, strict=True)
        ]

    def summary(self) -> str:
        rate = f", {self.chars_per_token:.2f} characters a token" if self.ids else ""
        return (
            f"{len(self.ids)} tokens for {self.n_chars} characters{rate}; "
            f"{self.model}: {self.version}, {self.vocab_size:,} entries"
        )


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "tokens", does="show how a text or a chat becomes token ids", run=run
    )
    options.add_model(parser)
    source = add_prompt(parser, "the text")
    source.add_argument(
        "--chat", metavar="FILE.json", help="a list of messages, or an object with messages, tools"
    )
    parser.add_argument("--compare", metavar="MODEL2", help="a second tokenizer, side by side")
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    source = _read_source(args)
    encodings = [
        encode(source, name, quiet=args.quiet) for name in (args.model, args.compare) if name
    ]
    if args.json:
        first, *others = (encoding.to_json() for encoding in encodings)
        write_json(first | ({"compare": others[0]} if others else {}))
        return
    columns = [encoding.rows() for encoding in encodings]
    write_lines([*side_by_side(columns), "", *(encoding.summary() for encoding in encodings)])


def encode(source: Source, name: str, *, quiet: bool) -> Encoding:
    """Raises: ModelNotFoundError, TokenizerError."""
    from mlx_mistral.text import load_tokenizer

    tokenizer = load_tokenizer(_folder(name, quiet=quiet))
    if tokenizer.note:
        note(f"{name}: {tokenizer.note}", quiet=quiet)
    ids = source.ids(tokenizer)
    return Encoding(
        model=name,
        version=tokenizer.version,
        vocab_size=tokenizer.vocab_size,
        ids=ids,
        pieces=tokenizer.pieces(ids),
        controls=[tokenizer.is_control(token_id) for token_id in ids],
        n_chars=source.n_chars,
    )


def shown(piece: str, *, is_control: bool) -> str:
    """A control token bare and marked; text in quotes, so that spaces can be counted."""
    if is_control:
        return f"{piece}  (control)"
    quoted = repr(piece)
    return quoted if len(quoted) <= LONGEST_PIECE else f"{quoted[: LONGEST_PIECE - 1]}…"


def side_by_side(columns: Sequence[list[str]]) -> list[str]:
    if len(columns) == 1:
        return columns[0]
    width = max(map(len, columns[0]), default=0)
    return [
        f"{left:<{width}}   {right}".rstrip() for left, right in zip_longest(*columns, fillvalue="")
    ]


def _folder(name: str, *, quiet: bool) -> Path:
    """Where a tokenizer lies: a tokenizer's own file is as good as a model."""
    from mlx_mistral.checkpoint.hub_tokenizer import resolve_tokenizer

    path = Path(name)
    return path if path.is_file() else resolve_tokenizer(name, progress=not quiet)


def _read_source(args: argparse.Namespace) -> Source:
    if args.chat is None:
        return Source(text=read_text(args))
    return parse_chat(read_file(args.chat), args.chat)
