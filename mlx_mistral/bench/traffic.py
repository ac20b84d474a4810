"""What one token costs at least: bytes that must be moved, multiplications that must be done.

A pass reads every weight that it uses once, however many tokens it has, and the keys and values
that its tokens may see. Activations stay close to the processor and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.config import ModelConfig, arithmetic
from mlx_mistral.memory.weights import held_bytes

from .cases import Case

_EMBEDDINGS = "model.embed_tokens."
_EXPERTS = ".switch_mlp."


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
        bytes_per_token=round(weights / case.batch + keys * key_bytes(config, activation_bytes)),
        flops_per_token=round(arithmetic.flops_per_token(config) + keys * attention),
    )


def bytes_of_pass(
    config: ModelConfig,
    parameters: Mapping[str, Parameter],
    activation_bytes: int,
    *,
    n_tokens: int,
) -> float:
    """Bytes of the weights that a pass over n tokens reads.

    Of the embeddings a row a token, unless they are the head too; of E experts those that the
    tokens' routers are expected to pick together.
    """
    total = 0.0
    for name, parameter in parameters.items():
        held = held_bytes(parameter, activation_bytes)
        if name.startswith(_EMBEDDINGS) and not config.tied_embeddings:
            total += held * min(1.0, n_tokens / config.vocab_size)
        elif _EXPERTS in name and config.moe:
            total += held * distinct_experts(config, n_tokens) / config.moe.num_experts
        else:
            total += held
    return total


def distinct_experts(config: ModelConfig, n_tokens: int) -> float:
    """How many of E experts n tokens meet, were each to pick its k with the same chance.

    One expert is missed by a token with probability 1 - k/E.
    """
    if config.moe is None:
        return 1.0
    experts, picked = config.moe.num_experts, config.moe.num_experts_per_tok
    return experts * (1.0 - (1.0 - picked / experts) ** n_tokens)


def keys_seen(config: ModelConfig, before: int, n_tokens: int) -> int:
    """Keys that n tokens after `before` others see in all layers, each its own among them."""
    return sum(_seen(window, before, n_tokens) for window in config.windows)


def key_bytes(config: ModelConfig, activation_bytes: int) -> int:
    """Bytes of one token's key and value in one layer."""
    return 2 * config.n_kv_heads * config.head_dim * activation_bytes


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
        bytes_per_token=round(weights / case.tokens + keys * key_bytes(config, activation_bytes)),
        flops_per_token=round(flops + keys_seen(config, case.depth, n) / n * attention),
    )


def _seen(window: int | None, before: int, n: int) -> int:
    """The sum of min(window, before + i) for i from 1 to n."""
    rising = n if window is None else max(0, min(n, window - before))
    at_window = 0 if window is None else (n - rising) * window
    return rising * before + rising * (rising + 1) // 2 + at_window
