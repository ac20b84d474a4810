"""What a program must be able to do to be measured."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

_SEED = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One run. Tokens: one list for each text, greedy, the first one included."""

    first_seconds: float
    """Until every text had its first token."""
    decode_seconds: float
    """From there to the last token; 0 where none followed."""
    peak_bytes: int
    """The most that MLX held in this process, other programs' weights included."""
    tokens: list[list[int]] = field(default_factory=list)


class Program(Protocol):
    """A loaded model with the code that runs it."""

    @property
    def name(self) -> str: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def held_bytes(self) -> int:
        """What it holds in this process between runs: weights, and the cache that was filled."""

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        """Makes every later run of one text go on behind these tokens; none: from the start.

        drawn: keys and values are random numbers instead of those that the tokens have, the
            same in every program, which costs no time.
        """

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        """Reads prompts of one length and decodes `gen_tokens` after the first token."""

    def close(self) -> None:
        """Lets go of what it holds."""


def some_ids(n: int, vocab_size: int, *, text: int = 0) -> list[int]:
    """n token ids without meaning, the same ones each time for each `text`."""
    return random.Random(_SEED + text).choices(range(vocab_size), k=n)
