"""What is left to the experts of a model that is held in part."""

from __future__ import annotations

from mlx_mistral.checkpoint.headers import Headers

from .admission import least_plan
from .needs import ModelNeeds
from .plan import longest_context
from .weights import held_bytes

EXPERTS = ".switch_mlp."
STREAMED_CONTEXTS = (4096, 256)
"""Tokens for which room is left where nobody says; the second where there is none for the first."""


def expert_bytes(headers: Headers, activation_bytes: int) -> int:
    """Of one expert in one layer; 0 for a model without."""
    config = headers.config
    if config.moe is None:
        return 0
    held = sum(
        held_bytes(parameter, activation_bytes)
        for name, parameter in headers.parameters.items()
        if EXPERTS in name
    )
    return held // (config.moe.num_experts * config.n_layers)


def experts_room(
    headers: Headers, needs: ModelNeeds, budget_bytes: int, context: int | None = None
) -> int | None:
    """Bytes for experts beside shared weights, cache and workspace of a text.

    None: the model has no experts, or there is no room for those of two layers' choices.
    """
    config, one = headers.config, expert_bytes(headers, needs.activation_bytes)
    if config.moe is None:
        return None
    everything = one * config.moe.num_experts * config.n_layers
    longest = longest_context(config)
    contexts = [context] if context else [min(longest, n) for n in STREAMED_CONTEXTS]
    for n_tokens in contexts:
        plan = least_plan(needs, budget_bytes, n_tokens)
        room = budget_bytes - (plan.total_bytes - everything)
        if room >= 2 * config.moe.num_experts_per_tok * one:
            return room
    return None
