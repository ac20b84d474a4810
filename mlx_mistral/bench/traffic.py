"""What one token costs at least: bytes that must be moved, multiplications that must be done.

A pass reads every weight that it uses once, however many tokens it has, and the keys and values
that its tokens may see. Activations stay close to the processor and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.config import ModelConfig, arithmetic
from mlx_mistral.memory.cache import pair_bytes
from mlx_mistral.memory.traffic import bytes_of_pass, keys_seen

from .cases import Case


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """For one token of a test, on average."""

    bytes_per_token: int
    flops_per_token: int


def work_of(
    case: Case,
    config: ModelConfig,
    parameters: Mapping[str, Parameter],
    activation_bytes: int,
) -> Work:
    """The least work of a token in a test."""
    if case.prompt_tokens:
        return _prompt_work(case, config, parameters, activation_bytes)
    keys = keys_seen(config, case.depth + 1, case.gen_tokens) / case.gen_tokens
    weights = bytes_of_pass(config, parameters, activation_bytes, n_tokens=case.batch)
    attention = arithmetic.attention_flops_per_key(config) / config.n_layers
    return Work(
        bytes_per_token=round(
            weights / case.batch + keys * pair_bytes(config, 1, activation_bytes)
        ),
        flops_per_token=round(arithmetic.flops_per_token(config) + keys * attention),
    )


def _prompt_work(
    case: Case,
    config: ModelConfig,
    parameters: Mapping[str, Parameter],
    activation_bytes: int,
) -> Work:
    """As if the prompt were one pass: the head for its last token alone, every key moved once."""
    n = case.prompt_tokens
    past = sum(
        case.depth if window is None else min(case.depth, window - 1) for window in config.windows
    )
    keys = past / n + config.n_layers
    weights = bytes_of_pass(config, parameters, activation_bytes, n_tokens=case.tokens)
    head = 2 * config.vocab_size * config.dim
    attention = arithmetic.attention_flops_per_key(config) / config.n_layers
    flops = arithmetic.flops_per_token(config) - head + head / n
    return Work(
        bytes_per_token=round(
            weights / case.tokens + keys * pair_bytes(config, 1, activation_bytes)
        ),
        flops_per_token=round(flops + keys_seen(config, case.depth, n) / n * attention),
    )
