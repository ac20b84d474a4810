"""What passes read: of the weights those that they use, of the cache what their tokens see."""

from __future__ import annotations

from collections.abc import Mapping

from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.config import ModelConfig

from .weights import held_bytes

_EMBEDDINGS = "model.embed_tokens."
_EXPERTS = ".switch_mlp."


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


def _seen(window: int | None, before: int, n: int) -> int:
    """The sum of min(window, before + i) for i from 1 to n."""
    rising = n if window is None else max(0, min(n, window - before))
    at_window = 0 if window is None else (n - rising) * window
    return rising * before + rising * (rising + 1) // 2 + at_window
