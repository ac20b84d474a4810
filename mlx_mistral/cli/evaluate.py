"""`eval`: how well a model predicts a text, and how far it is from another model on it."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mistral.errors import EvaluationError

from . import options
from .evaluate_text import Result
from .prompt import add_prompt, read_text
from .source import encode_file, is_chats
from .terminal import Progress, note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.evaluation import Scores
    from mlx_mistral.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """What is scored, and how much of the file that is."""

    ids: list[int]
    bos_id: int
    n_bytes: int


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands,
        "eval",
        does="measure perplexity on a text, or distance from a model",
        run=run,
    )
    options.add_model(parser)
    add_prompt(parser, "the text, or chats where FILE ends in .jsonl")
    parser.add_argument(
        "--reference", metavar="MODEL2", help="also KL divergence from it and top-1 agreement"
    )
    parser.add_argument(
        "--context", type=options.positive, metavar="N",
        help="tokens of a block (default: the model's context, at most 2048)",
    )  # fmt: skip
    parser.add_argument(
        "--stride", type=options.positive, metavar="N",
        help="new tokens of a block; N of --context is without overlap (default: half of it)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=options.positive, metavar="N", help="only the first N tokens"
    )
    options.add_dtype(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    text = read_text(args)
    progress = Progress(quiet=args.quiet or args.json)
    try:
        result = _evaluate(args, text, progress)
    finally:
        progress.clear()
    if args.json:
        write_json(result.to_json())
        return
    write_lines(result.to_lines())
    note(f"{result.seconds:.1f} s, {result.tps:.0f} tokens/s", quiet=args.quiet)


def _evaluate(args: argparse.Namespace, content: str, progress: Progress) -> Result:
    from mlx_mistral.checkpoint import Checkpoint, load_model, resolve
    from mlx_mistral.evaluation import evaluate
    from mlx_mistral.evaluation.blocks import (
        check_stride,
        choose_context,
        default_stride,
        describe,
    )

    names = [args.model] if args.reference is None else [args.model, args.reference]
    folders = [resolve(name, progress=not args.quiet) for name in names]
    text = _encode(args, content, folders)
    context = choose_context(args.context, *(Checkpoint(folder).config for folder in folders))
    stride = default_stride(context) if args.stride is None else args.stride
    check_stride(context, stride)
    models = []
    for name, folder in zip(names, folders, strict=True):
        progress.show(f"loading {name}")
        models.append(load_model(folder, dtype=args.dtype))
    began = time.perf_counter()
    scores = evaluate(
        models[0],
        text.ids,
        bos_id=text.bos_id,
        context=context,
        stride=stride,
        reference=models[1] if len(models) > 1 else None,
        progress=_reporter(progress, began),
    )
    return Result(
        model=args.model,
        reference=args.reference,
        context=context,
        stride=stride,
        method=describe(len(text.ids), context=context, stride=stride),
        scores=scores,
        n_bytes=text.n_bytes,
        seconds=time.perf_counter() - began,
    )


def _encode(args: argparse.Namespace, content: str, folders: list[Path]) -> Text:
    """Raises: TokenizerError. EvaluationError: too short, or two tokenizers that disagree."""
    from mlx_mistral.text import load_tokenizer

    tokenizer = load_tokenizer(folders[0])
    if tokenizer.note:
        note(tokenizer.note, quiet=args.quiet)
    ids = encode_file(content, args.file, tokenizer)
    if len(folders) > 1 and folders[1] != folders[0]:
        _check_same(tokenizer, ids, load_tokenizer(folders[1]), content, args)
    kept = ids[: args.limit]
    if len(kept) < 2:
        raise EvaluationError("fewer than two tokens cannot be evaluated; give more text")
    whole = len(kept) == len(ids) and not is_chats(args.file)
    scored = content if whole else tokenizer.decode(kept)
    return Text(ids=kept, bos_id=tokenizer.bos_id, n_bytes=len(scored.encode()))


def _check_same(
    tokenizer: Tokenizer,
    ids: list[int],
    other: Tokenizer,
    content: str,
    args: argparse.Namespace,
) -> None:
    if encode_file(content, args.file, other) != ids or other.bos_id != tokenizer.bos_id:
        raise EvaluationError(
            f"the text has other tokens for the reference, {args.reference}; compare models that "
            "share a tokenizer, or evaluate each alone and compare bits per byte"
        )


def _reporter(progress: Progress, began: float) -> Callable[[Scores, int], None]:
    def report(scores: Scores, total: int) -> None:
        if scores.tokens:
            seconds = (time.perf_counter() - began) * (total - scores.tokens) / scores.tokens
            progress.show(
                f"evaluated {scores.tokens:,} of {total:,} tokens: perplexity "
                f"{scores.perplexity:.4g}; {seconds:.0f} s left"
            )

    return report
