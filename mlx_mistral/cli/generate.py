"""`generate`: one prompt in, one reply out, or several drawn as one batch."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import MlxMistralError

from . import options
from .prompt import add_prompt, read_prompt
from .terminal import Progress, ReplyWriter, note, write_json

if TYPE_CHECKING:
    from mlx_mistral.completion import GenerationResponse
    from mlx_mistral.generation.speculate import Counts
    from mlx_mistral.model import Model
    from mlx_mistral.text import Tokenizer

PROBE = "Where two tokenizers cut this alike, 12,345 times, ils sont les mêmes."
"""Shows whether two models read the same tokens."""
SAMPLES_TEMPERATURE = 0.7
"""Where several samples are asked for and no temperature: greedy ones would all be the same."""


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(commands, "generate", does="answer one prompt", run=run)
    options.add_model(parser)
    add_prompt(parser, "the prompt")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--system", metavar="TEXT", help="system prompt")
    form.add_argument("--raw", action="store_true", help="no chat format: continue the text")
    options.add_sampling(parser, max_tokens=256)
    options.add_fine_sampling(parser)
    parser.add_argument(
        "-n", "--num-samples", type=options.samples, default=1, metavar="N",
        help=f"draw N replies as one batch (temperature {SAMPLES_TEMPERATURE} unless given)",
    )  # fmt: skip
    options.add_cache(parser)
    options.add_loading(parser)
    parser.add_argument(
        "--speculate", action="store_true", help="draft tokens from the text so far; same reply"
    )
    parser.add_argument(
        "--draft", metavar="MODEL", help="a smaller model of the same tokenizer writes the drafts"
    )
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    if args.num_samples > 1 and (args.speculate or args.draft):
        raise MlxMistralError("drafts are for one reply; leave --num-samples or the drafts out")
    text = read_prompt(args)
    progress = Progress(quiet=args.quiet or args.json)
    model, tokenizer = load_model_and_tokenizer(args, progress)
    prompt = text if args.raw else chat_ids(tokenizer, text, args.system)
    if args.num_samples > 1:
        _draw_samples(args, model, tokenizer, prompt, progress)
    else:
        _stream_reply(args, model, tokenizer, prompt, progress)


def load_model_and_tokenizer(
    args: argparse.Namespace, progress: Progress
) -> tuple[Model, Tokenizer]:
    """The model and tokenizer that the command line names."""
    from mlx_mistral.checkpoint import resolve
    from mlx_mistral.loading import load

    folder = resolve(args.model, progress=not args.quiet)
    progress.show(f"loading {args.model}")
    try:
        model, tokenizer = load(
            folder,
            dtype=args.dtype,
            memory=args.memory,
            context=args.context,
            name=args.model,
            tell=note,
        )
    finally:
        progress.clear()
    if tokenizer.note:
        note(tokenizer.note, quiet=args.quiet)
    return model, tokenizer


def load_draft_model(args: argparse.Namespace, tokenizer: Tokenizer, progress: Progress) -> Model:
    """The model that --draft names. Raises: MlxMistralError: its tokens are not the model's."""
    from mlx_mistral.checkpoint import resolve
    from mlx_mistral.loading import load

    folder = resolve(args.draft, progress=not args.quiet)
    progress.show(f"loading {args.draft}")
    try:
        model, own = load(folder, dtype=args.dtype)
    finally:
        progress.clear()
    if own.vocab_size != tokenizer.vocab_size or own.encode(PROBE) != tokenizer.encode(PROBE):
        raise MlxMistralError(
            f"{args.draft} cuts text into other tokens than {args.model}; "
            "choose a draft model with the same tokenizer"
        )
    return model


def chat_ids(tokenizer: Tokenizer, text: str, system: str | None) -> list[int]:
    """One user turn in the model's chat format."""
    messages = [{"role": "user", "content": text}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    return tokenizer.encode_chat(messages)


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments that generation takes from the command line."""
    default = SAMPLES_TEMPERATURE if args.num_samples > 1 else 0.0
    return {
        "max_tokens": args.max_tokens,
        "temp": default if args.temp is None else args.temp,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "seed": args.seed,
        "stop": args.stop,
        "context": args.context,
        "kv_bits": args.kv_bits,
    }


def _stream_reply(
    args: argparse.Namespace,
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | list[int],
    progress: Progress,
) -> None:
    from mlx_mistral.completion import stream_generate
    from mlx_mistral.generation.speculate import Counts

    counts = Counts() if args.speculate or args.draft else None
    responses = stream_generate(
        model,
        tokenizer,
        prompt,
        **sampling(args),
        progress=progress.prefill,
        tell=note,
        speculate=args.speculate,
        draft_model=load_draft_model(args, tokenizer, progress) if args.draft else None,
        draft_counts=counts,
    )
    if args.json:
        _write_reply_json(args, responses, counts)
        return
    last = write_reply(responses, progress)
    note(
        f"prompt: {last.prompt_tokens} tokens, {last.prompt_tps:.1f} tokens/s; "
        f"reply: {last.generation_tokens} tokens, {last.generation_tps:.1f} tokens/s; "
        f"peak memory: {last.peak_memory:.2f} GB",
        quiet=args.quiet,
    )
    if counts is not None:
        note(
            f"drafts: {counts.accepted} of {counts.drafted} tokens held, "
            f"{counts.tokens_per_pass:.2f} tokens a pass",
            quiet=args.quiet,
        )


def write_reply(responses: Iterator[GenerationResponse], progress: Progress) -> GenerationResponse:
    """Streams a reply to stdout and returns its last response, which sums it up."""
    with ReplyWriter() as writer:
        try:
            for last in responses:
                progress.clear()
                writer.write(last.text)
        finally:
            progress.clear()
    return last


def _write_reply_json(
    args: argparse.Namespace, responses: Iterator[GenerationResponse], counts: Counts | None
) -> None:
    texts, token_ids = [], []
    # A response holds its logits: keeping all of them would outgrow the cache.
    for last in responses:
        texts.append(last.text)
        token_ids.append(last.token)
    write_json(
        {
            "model": args.model,
            "text": "".join(texts),
            "token_ids": token_ids,
            "prompt_tokens": last.prompt_tokens,
            "prompt_tps": last.prompt_tps,
            "generation_tokens": last.generation_tokens,
            "generation_tps": last.generation_tps,
            "peak_memory_bytes": round(last.peak_memory * 1e9),
            "finish_reason": last.finish_reason,
            **({} if counts is None else {"drafts": asdict(counts)}),
        }
    )


def _draw_samples(
    args: argparse.Namespace,
    model: Model,
    tokenizer: Tokenizer,
    prompt: str | list[int],
    progress: Progress,
) -> None:
    from mlx_mistral.batch_completion import batch_generate

    if args.temp == 0:
        note("samples at temperature 0 are all the same; --temp 0.7 varies them", quiet=args.quiet)
    drawn = batch_generate(
        model,
        tokenizer,
        [prompt] * args.num_samples,
        **sampling(args),
        progress=progress.prefill,
        tell=note,
    )
    n_tokens = sum(stats.generation_tokens for stats in drawn.stats)
    if args.json:
        first = drawn.stats[0]
        write_json(
            {
                "model": args.model,
                "text": list(drawn.texts),
                "token_ids": [list(ids) for ids in drawn.token_ids],
                "prompt_tokens": first.prompt_tokens,
                "prompt_tps": first.prompt_tps,
                "generation_tokens": n_tokens,
                "generation_tps": first.generation_tps,
                "peak_memory_bytes": round(first.peak_memory * 1e9),
                "finish_reason": [stats.finish_reason for stats in drawn.stats],
            }
        )
        return
    for number, text in enumerate(drawn.texts, start=1):
        note(f"[{number} of {args.num_samples}]", quiet=args.quiet)
        with ReplyWriter() as writer:
            writer.write(text)
    note(f"{n_tokens} tokens in {args.num_samples} replies", quiet=args.quiet)
