"""`info`: what a model is, in figures that follow from its headers alone."""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mistral.config import arithmetic
from mlx_mistral.errors import CheckpointError, TokenizerError

from . import options
from .info_text import TokenizerFacts, bits_per_weight, to_lines
from .terminal import note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.checkpoint import Headers

EXAMPLE = [
    {"role": "system", "content": "SYSTEM"},
    {"role": "user", "content": "USER"},
]
"""Encoding it shows a chat format as the tokenizer really writes it."""


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "info", does="explain a model's architecture in figures", run=run
    )
    options.add_model(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_headers import read_model

    headers = read_model(args.model)
    _check_count(args, headers)
    tokenizer = _read_tokenizer(args)
    if args.json:
        write_json(to_json(headers, tokenizer))
    else:
        write_lines(to_lines(args.model, headers, tokenizer))


def to_json(headers: Headers, tokenizer: TokenizerFacts | None) -> dict[str, Any]:
    """The figures by their promised names."""
    config = headers.config
    return {
        "family": config.family,
        "layout": headers.layout,
        "parameters": headers.parameter_count,
        "active_parameters": headers.active_parameter_count,
        "weight_bytes": headers.weight_bytes,
        "bits_per_weight": bits_per_weight(headers),
        "kv_bytes_per_token": arithmetic.kv_bytes_per_token(config),
        "kv_compression": arithmetic.kv_compression(config),
        "sliding_window": config.sliding_window,
        "receptive_field": arithmetic.receptive_field(config),
        "flops_per_token": arithmetic.flops_per_token(config),
        "context": config.max_context,
        "tokenizer": tokenizer.version if tokenizer else None,
        "chat_format": tokenizer.chat_format if tokenizer else None,
        "config": dataclasses.asdict(config),
    }


def _check_count(args: argparse.Namespace, headers: Headers) -> None:
    """Remarks on files that do not hold what the configuration describes."""
    found, expected = headers.parameter_count, arithmetic.parameters(headers.config)
    if not found:
        raise CheckpointError(f"no weights in the files, {args.model}; download the model again")
    if found != expected:
        note(
            f"the files hold {found:,} weights, the configuration describes {expected:,}: "
            "tensors are missing, left over, or of another model",
            quiet=args.quiet,
        )


def _read_tokenizer(args: argparse.Namespace) -> TokenizerFacts | None:
    """None where there is none, or where a few kilobytes do not tell it."""
    from mlx_mistral.checkpoint.hub_cache import cached_folder
    from mlx_mistral.checkpoint.hub_tokenizer import peek_at_tokenizer
    from mlx_mistral.checkpoint.model_name import locate

    where = locate(args.model)
    try:
        if isinstance(where, Path):
            return _load_facts(where)
        cached = cached_folder(where, weights_alone=True)
        if cached is not None:
            return _load_facts(cached)
        with tempfile.TemporaryDirectory() as peeked:
            version = peek_at_tokenizer(where, Path(peeked))
            return TokenizerFacts(version, None) if version else _load_facts(Path(peeked))
    except TokenizerError as error:
        note(f"tokenizer: {error}", quiet=args.quiet)
        return None


def _load_facts(folder: Path) -> TokenizerFacts:
    from mlx_mistral.text import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return TokenizerFacts(tokenizer.version, _chat_format(tokenizer))


def _chat_format(tokenizer: Any) -> str | None:
    try:
        ids = tokenizer.encode_chat(EXAMPLE)
    except TokenizerError:
        return None
    return repr(tokenizer.decode(ids, keep_control=True))[1:-1]
