"""Programs run the same tests in turn: A B A B, so that what drifts drifts for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from .cases import Case
from .program import Program, Trial, some_ids
from .results import Result, result_of
from .traffic import Work

Progress = Callable[[str], None]
WARM_UP = 1
"""Runs before the trials, not counted: the first compiles kernels and fills pools."""


def run_cases(
    programs: Sequence[Program],
    cases: Sequence[Case],
    *,
    trials: int,
    pause_seconds: float = 0.0,
    drawn: bool = False,
    works: Mapping[Case, Work] | None = None,
    bytes_per_second: float | None = None,
    progress: Progress | None = None,
) -> list[list[Result]]:
    """The results of each program, one for each case; greedy, with the same token ids for all.

    drawn: depths are filled with random keys and values; see `Program.fill`.
    works: what a token of each test costs at least; see `work_of`.
    """
    results: list[list[Result]] = [[] for _ in programs]
    vocab_size = min(program.vocab_size for program in programs)
    for (batch, depth), group in groupby(cases, key=lambda case: (case.batch, case.depth)):
        before = some_ids(depth, vocab_size)
        for program in programs:
            if progress and depth and batch == 1:
                progress(f"{program.name}: filling {depth} tokens")
            program.fill(before if batch == 1 else [], drawn=drawn)
        for case in group:
            taken = _run(programs, case, before, vocab_size, trials, pause_seconds, progress)
            held = [program.held_bytes for program in programs]
            for program, runs, mine, found in zip(programs, taken, held, results, strict=True):
                found.append(
                    result_of(
                        case,
                        runs,
                        others_bytes=sum(held) - mine if program.held_bytes else 0,
                        work=(works or {}).get(case),
                        bytes_per_second=bytes_per_second,
                    )
                )
    return results


def _run(
    programs: Sequence[Program],
    case: Case,
    before: list[int],
    vocab_size: int,
    trials: int,
    pause_seconds: float,
    progress: Progress | None,
) -> list[list[Trial]]:
    prompts = list(_prompts(case, before, vocab_size))
    taken: list[list[Trial]] = [[] for _ in programs]
    for n in range(-WARM_UP, trials):
        for program, runs in zip(programs, taken, strict=True):
            if progress:
                at = f"trial {n + 1} of {trials}" if n >= 0 else "warming up"
                progress(f"{program.name}: {case.name}, {at}")
            time.sleep(pause_seconds)
            trial = program.run(prompts, case.gen_tokens)
            if n >= 0:
                runs.append(trial)
    return taken


def _prompts(case: Case, before: list[int], vocab_size: int) -> Iterator[list[int]]:
    """What each text begins with: one token before a reply; in a batch, its whole past."""
    for text in range(case.batch):
        new = some_ids(case.prompt_tokens or 1, vocab_size, text=1 + text)
        past = some_ids(case.depth, vocab_size, text=text) if case.batch > 1 else []
        yield past + new
