"""The flags that commands share, and how their values are read."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.config.sizes import parse_size
from mlx_mistral.errors import MemoryBudgetError

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_MODEL = "demo"
DTYPES = ("float32", "bfloat16", "float16")
MAX_COUNT = (1 << 31) - 1
MAX_SEED = (1 << 63) - 1
MAX_SAMPLES = 1024
"""Rows of one batch: each has a cache of its own."""


def new_command(
    commands: Commands, name: str, *, does: str, run: Callable[[argparse.Namespace], None]
) -> argparse.ArgumentParser:
    """A command with the flags that every command has."""
    parser = commands.add_parser(
        name, help=does, description=does[0].upper() + does[1:] + ".", allow_abbrev=False
    )
    parser.set_defaults(run=run)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", nargs="?", default=DEFAULT_MODEL, metavar="MODEL",
        help="folder, Hub repository, alias or demo (default: demo)",
    )  # fmt: skip


def add_output(parser: argparse.ArgumentParser, *, json: bool = True) -> None:
    if json:
        parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quiet", action="store_true", help="no progress, no statistics")


def add_loading(parser: argparse.ArgumentParser) -> None:
    """For commands that load weights."""
    add_dtype(parser)
    parser.add_argument(
        "--memory", type=size, metavar="SIZE",
        help="stay inside so much memory, such as 16GB (default: what this machine gives)",
    )  # fmt: skip


def add_dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype", choices=DTYPES, help="of activations (default: float32 on CPU, else bfloat16)"
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--context", type=positive, metavar="N", help="hold at most N tokens, or refuse"
    )
    add_kv_bits(parser)


def add_kv_bits(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--kv-bits", type=int, choices=KV_BITS,
        help="hold keys and values in 8 or 4 bits (default: as computed)",
    )  # fmt: skip


def add_sampling(parser: argparse.ArgumentParser, *, max_tokens: int) -> None:
    parser.add_argument(
        "--max-tokens", type=positive, default=max_tokens, metavar="N",
        help="longest reply (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--temp", type=not_negative, help="temperature; 0 is greedy (default: 0)")
    parser.add_argument(
        "--top-p", type=share, default=1.0, metavar="P", help="keep the likeliest share P"
    )
    parser.add_argument("--seed", type=seed, metavar="N", help="makes sampling repeatable")


def add_fine_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--top-k", type=count, default=0, metavar="K", help="keep the K likeliest tokens"
    )
    parser.add_argument(
        "--min-p", type=fraction, default=0.0, metavar="P",
        help="keep tokens at least P times as likely as the likeliest",
    )  # fmt: skip
    parser.add_argument(
        "--repetition-penalty", type=above_zero, metavar="X",
        help="above 1 makes tokens less likely that were already there",
    )  # fmt: skip
    parser.add_argument(
        "--stop", action="append", default=[], metavar="TEXT",
        help="end the reply before TEXT; may be given again",
    )  # fmt: skip


def size(text: str) -> int:
    """Bytes: `16GB` (10^9 each), `16GiB` (2^30 each), `900MB`, or a plain number."""
    try:
        return parse_size(text)
    except MemoryBudgetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def positive(text: str) -> int:
    return _integer(text, 1, MAX_COUNT)


def count(text: str) -> int:
    return _integer(text, 0, MAX_COUNT)


def seed(text: str) -> int:
    return _integer(text, 0, MAX_SEED)


def samples(text: str) -> int:
    return _integer(text, 1, MAX_SAMPLES)


def not_negative(text: str) -> float:
    return _number(text, "0 or more", lambda value: value >= 0)


def above_zero(text: str) -> float:
    return _number(text, "above 0", lambda value: value > 0)


def share(text: str) -> float:
    return _number(text, "above 0 and at most 1", lambda value: 0 < value <= 1)


def fraction(text: str) -> float:
    return _number(text, "from 0 to 1", lambda value: 0 <= value <= 1)


def _integer(text: str, minimum: int, maximum: int) -> int:
    if re.fullmatch(r"\d{1,19}", text, re.ASCII) and minimum <= int(text) <= maximum:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {minimum} to {maximum}")


def _number(text: str, expected: str, is_allowed: Callable[[float], bool]) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and is_allowed(value)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number {expected}")
    return value
