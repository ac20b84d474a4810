"""`bench --sweep`: what could be set otherwise, tried on this machine; the best is said or kept."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import MlxMistralError

from .bench_text import chunk_lines, sweep_lines
from .terminal import Progress, note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.bench.chunks import TriedChunk


def sweep(args: argparse.Namespace, progress: Progress) -> None:
    """Raises: MlxMistralError: together with what only one process can do."""
    from mlx_mistral.bench.sweep import best
    from mlx_mistral.bench.sweep import sweep as try_settings

    for flag in ("against", "plot"):
        if getattr(args, flag):
            raise MlxMistralError(f"--sweep and --{flag} are measured apart; leave one out")
    chunks, chosen_chunk, kept = _chunks(args, progress) if any(args.prompt_tokens) else ([], 0, "")
    tried = try_settings(_arguments(args), progress=progress.show)
    progress.clear()
    chosen = best(tried)
    if args.json:
        found: dict[str, Any] = {
            "sweep": [one.to_json() for one in tried],
            "best": [one.to_json() for one in chosen],
        }
        if chunks:
            found["chunks"] = [one.to_json() for one in chunks]
            found["best_chunk"] = chosen_chunk
        write_json(found)
    else:
        write_lines([*chunk_lines(chunks, chosen_chunk), *sweep_lines(tried, chosen)])
    if kept:
        note(kept, quiet=args.quiet)


def _chunks(args: argparse.Namespace, progress: Progress) -> tuple[list[TriedChunk], int, str]:
    """Every size that was tried, the best, and where that is noted."""
    from mlx_mistral import tuning
    from mlx_mistral.backend.select import active_backend
    from mlx_mistral.bench import chunks
    from mlx_mistral.bench.cases import ROOM
    from mlx_mistral.bench.ours import Ours
    from mlx_mistral.checkpoint import read_folder, resolve
    from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
    from mlx_mistral.memory import ModelNeeds
    from mlx_mistral.memory.machine import machine_budget

    folder = resolve(args.model, progress=not args.quiet)
    headers, dtype = read_folder(folder), resolve_dtype(args.dtype)
    config, budget_bytes = headers.config, args.memory or machine_budget()
    n_prompt = max(chunks.PROMPT_TOKENS, *args.prompt_tokens)
    if config.max_context is not None:
        n_prompt = min(n_prompt, config.max_context - ROOM)
    needs = ModelNeeds.of(headers, dtype=dtype_name(dtype), scratch=active_backend().scratch)

    def fits(size: int) -> bool:
        context = n_prompt + ROOM
        return budget_bytes is None or needs.plan(context, budget_bytes, prefill_tokens=size).fits

    progress.show("loading")
    with closing(Ours(str(folder), dtype=args.dtype, memory=budget_bytes)) as program:
        sizes = chunks.sizes_for(config, n_prompt, fits)
        tried = chunks.try_chunks(program, sizes, n_prompt, progress=progress.show)
    best = chunks.best_chunk(tried, tuning.rule(config)).tokens
    place = chunks.keep(config, dtype, best)
    return tried, best, f"prompts of such a model are read {best} tokens at a time now: {place}"


def _arguments(args: argparse.Namespace) -> Sequence[str]:
    """The command line again, for a process of its own."""
    lists = {"-p": args.prompt_tokens, "-g": args.gen_tokens, "--depth": args.depth,
             "--batch": args.batch}  # fmt: skip
    words = [args.model, "-n", str(args.trials), "--pause", str(args.pause), "--fill", args.fill]
    for flag, values in lists.items():
        words += [flag, ",".join(map(str, values))]
    for flag, value in (("--dtype", args.dtype), ("--memory", args.memory)):
        if value is not None:
            words += [flag, str(value)]
    return [*words, *(["--speculate"] if args.speculate else [])]
