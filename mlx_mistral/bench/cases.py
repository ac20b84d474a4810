"""What is measured: reading a prompt or writing a reply, behind so much text, so many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import ContextError

ROOM = 2
"""Tokens beside those that are timed: the one that starts a reply, and the one in flight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One test: `prompt_tokens` are read or `gen_tokens` are written; the other is 0."""

    prompt_tokens: int = 0
    gen_tokens: int = 0
    depth: int = 0
    """Tokens that the context already holds."""
    batch: int = 1

    @property
    def name(self) -> str:
        """As llama-bench writes it: `pp512`, `tg128 @ d4096`; a batch of eight is `tg128 b8`."""
        what = f"pp{self.prompt_tokens}" if self.prompt_tokens else f"tg{self.gen_tokens}"
        batch = f" b{self.batch}" if self.batch > 1 else ""
        depth = f" @ d{self.depth}" if self.depth else ""
        return what + batch + depth

    @property
    def tokens(self) -> int:
        """Tokens that are timed, those of all texts together."""
        return self.batch * (self.prompt_tokens or self.gen_tokens)

    @property
    def prompt(self) -> int:
        """Tokens that each text begins with."""
        return self.depth + (self.prompt_tokens or 1)

    @property
    def context(self) -> int:
        """Tokens that one text needs room for."""
        return self.prompt + self.gen_tokens + ROOM


def cases_for(
    *,
    prompt_tokens: Sequence[int],
    gen_tokens: Sequence[int],
    depths: Sequence[int],
    batches: Sequence[int],
) -> list[Case]:
    """Every combination, by batch and depth, so that each depth is filled once; 0 asks for none.

    A prompt behind text is read alone: several would share neither their text nor its time.
    """
    cases = []
    for batch in batches:
        for depth in depths:
            prompts = prompt_tokens if batch == 1 or depth == 0 else ()
            cases += [Case(prompt_tokens=n, depth=depth, batch=batch) for n in prompts if n]
            cases += [Case(gen_tokens=n, depth=depth, batch=batch) for n in gen_tokens if n]
    return cases


def check_context(cases: Sequence[Case], config: ModelConfig) -> None:
    """Raises: ContextError: a test needs more positions than the model has."""
    longest = config.max_context
    for case in cases:
        if longest is not None and case.context > longest:
            raise ContextError(
                f"test {case.name} needs {case.context} tokens of context, the model has "
                f"{longest}; ask for a smaller depth or shorter texts"
            )
