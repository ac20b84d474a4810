"""The sum of what a model needs, against what there is.

A plan is a promise: weights, cache and workspace together are never less than the peak that
MLX reports (`mx.get_peak_memory`) while one text of `context` tokens is read and answered, in
`generate` or over the turns of a `Chat`. It covers what MLX allocates. The interpreter, its
libraries and the tokenizer take another 100 to 150 MB outside of it, and several texts at once
(`batch_generate`) need a cache each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlx_mistral.backend.scratch import ScratchSizes
from mlx_mistral.config import ModelConfig
from mlx_mistral.config.fields import MAX_DIMENSION
from mlx_mistral.errors import ContextError

from .cache import cache_bytes
from .workspace import workspace_bytes

DEFAULT_CONTEXT = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes that one text of `context` tokens needs, and the bytes that may be used."""

    context: int
    weights_bytes: int
    cache_bytes: int
    workspace_bytes: int
    budget_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.workspace_bytes

    @property
    def fits(self) -> bool:
        return self.total_bytes <= self.budget_bytes


def plan_memory(
    config: ModelConfig,
    *,
    weights_bytes: int,
    context: int,
    budget_bytes: int,
    activation_bytes: int,
    scratch: ScratchSizes,
    loading_bytes: int = 0,
    kv_bits: int | None = None,
    prefill_tokens: int | None = None,
) -> MemoryPlan:
    """The plan for weights that will take `weights_bytes` in memory.

    scratch, loading_bytes, kv_bits, prefill_tokens: as in `workspace_bytes`.
    Raises: ContextError: the model has no such context.
    """
    if context < 1 or context > longest_context(config):
        raise ContextError(
            f"a context of {context} tokens is asked for, this model reads 1 to "
            f"{longest_context(config)}; ask for one of these"
        )
    workspace = workspace_bytes(
        config,
        context,
        activation_bytes,
        scratch=scratch,
        loading_bytes=loading_bytes,
        kv_bits=kv_bits,
        prefill_tokens=prefill_tokens,
    )
    return MemoryPlan(
        context=context,
        weights_bytes=weights_bytes,
        cache_bytes=cache_bytes(config, context, activation_bytes, kv_bits),
        workspace_bytes=workspace,
        budget_bytes=budget_bytes,
    )


def max_context(
    config: ModelConfig,
    *,
    weights_bytes: int,
    budget_bytes: int,
    activation_bytes: int,
    scratch: ScratchSizes,
    loading_bytes: int = 0,
    kv_bits: int | None = None,
    prefill_tokens: int | None = None,
) -> int:
    """The longest context whose plan fits the budget; 0 where not even one token does.

    At most what the model was made for. Arguments as in `plan_memory`.
    """

    def fits(context: int) -> bool:
        return plan_memory(
            config,
            weights_bytes=weights_bytes,
            context=context,
            budget_bytes=budget_bytes,
            activation_bytes=activation_bytes,
            scratch=scratch,
            loading_bytes=loading_bytes,
            kv_bits=kv_bits,
            prefill_tokens=prefill_tokens,
        ).fits

    return longest_fitting(config, fits)


def longest_fitting(config: ModelConfig, fits: Callable[[int], bool]) -> int:
    """The longest context that the model was made for and that fits; 0 where none does.

    Needs grow with the context, so halving the range finds it.
    """
    fitting, too_long = 0, longest_context(config) + 1
    while too_long - fitting > 1:
        middle = (fitting + too_long) // 2
        if fits(middle):
            fitting = middle
        else:
            too_long = middle
    return fitting


def default_context(config: ModelConfig) -> int:
    """The context to plan for where none is asked for: the model's own, at most 32,768 tokens.

    Some files state a million positions, more than anyone means who does not say so.
    """
    return min(config.max_context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def longest_context(config: ModelConfig) -> int:
    """Positions that the model was made for; where its files do not say, no bound in use."""
    return config.max_context or MAX_DIMENSION
