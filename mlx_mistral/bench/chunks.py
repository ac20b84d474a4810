"""Sizes of a prompt's chunks, tried in turn on one loaded model; the best is kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mistral import tuning
from mlx_mistral.config import ModelConfig
from mlx_mistral.sessions import write_whole

from .ours import Ours
from .program import some_ids
from .results import Rounds

PROMPT_TOKENS = 2048
"""Of the prompt, where no longer one is asked for."""
SIZES = (128, 256, 512, 1024, 2048, 4096)
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TriedChunk(Rounds):
    """One size: its speed in each round, and the most that MLX held."""

    tokens: int
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            **self.speed(),
            "peak_memory_bytes": self.peak_memory_bytes,
        }


def sizes_for(config: ModelConfig, n_prompt: int, fits: Callable[[int], bool]) -> list[int]:
    """The rule's size, and others that such a prompt fills. fits: whether memory has room."""
    usual = tuning.rule(config)
    return [size for size in SIZES if size == usual or (size <= n_prompt and fits(size))]


def try_chunks(
    program: Ours,
    sizes: Sequence[int],
    n_prompt: int,
    *,
    rounds: int = ROUNDS,
    progress: Callable[[str], None] | None = None,
) -> list[TriedChunk]:
    """Reads one prompt in chunks of every size, in turn, after a round that does not count."""
    prompt = some_ids(n_prompt, program.vocab_size)
    seconds: dict[int, list[float]] = {size: [] for size in sizes}
    peaks = dict.fromkeys(sizes, 0)
    for n in range(-1, rounds):
        for size in sizes:
            if progress:
                at = f"round {n + 1} of {rounds}" if n >= 0 else "warming up"
                progress(f"{at}: a prompt in chunks of {size} tokens")
            trial = program.having(prefill_step_size=size).run([prompt], 0)
            peaks[size] = max(peaks[size], trial.peak_bytes)
            if n >= 0:
                seconds[size].append(trial.first_seconds)
    return [
        TriedChunk(
            tokens=size,
            rounds_tps=tuple(n_prompt / one for one in taken),
            peak_memory_bytes=peaks[size],
        )
        for size, taken in seconds.items()
    ]


def best_chunk(tried: Sequence[TriedChunk], usual: int) -> TriedChunk:
    """The usual size where none is ahead by more than the spread.

    Else the one that holds least of those that are as fast as the fastest.
    """
    own = next(one for one in tried if one.tokens == usual)
    fastest = max(tried, key=lambda one: one.tps)

    def is_ahead(one: TriedChunk) -> bool:
        return fastest.tps - one.tps > max(fastest.tps_stdev, one.tps_stdev)

    if not is_ahead(own):
        return own
    return next(one for one in sorted(tried, key=lambda one: one.tokens) if not is_ahead(one))


def keep(config: ModelConfig, dtype: mx.Dtype, tokens: int) -> Path:
    """Has prompts of such models read in chunks of this size from now on; returns the file.

    Raises: SessionError: it cannot be written.
    """
    kept = tuning.read() | {tuning.key(config, dtype): tokens}
    write_whole(tuning.path(), json.dumps(kept, indent=2) + "\n")
    return tuning.path()
