"""Whether a model may be loaded at all, and what would do where it may not."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.cache.quantized import can_quantize
from mlx_mistral.config.convert_command import convert_command
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.config.sizes import size_text
from mlx_mistral.errors import MemoryBudgetError

from .batch import Extent, batch_bytes
from .needs import ModelNeeds
from .pass_needs import SMALLEST_CHUNK
from .plan import MemoryPlan, longest_context
from .workspace import OTHER_BYTES

LEAST_CONTEXT = 256
"""Tokens; a model that cannot hold so many is of no use."""


def least_plan(
    needs: ModelNeeds, budget_bytes: int, context: int | None, kv_bits: int | None = None
) -> MemoryPlan:
    """The plan when every step down has been taken: small chunks, the narrowest cache.

    context: None: a short text; more than the model's own counts as that.
    """
    n_tokens = min(context or LEAST_CONTEXT, longest_context(needs.config))
    bits = min(KV_BITS) if can_quantize(needs.config.head_dim) else kv_bits
    return needs.plan(n_tokens, budget_bytes, bits, prefill_tokens=SMALLEST_CHUNK)


def check_fits(
    needs: ModelNeeds,
    name: str,
    budget_bytes: int,
    *,
    context: int | None = None,
    kv_bits: int | None = None,
) -> None:
    """Before anything is loaded. Raises: MemoryBudgetError: it cannot fit; says what would."""
    plan = least_plan(needs, budget_bytes, context, kv_bits)
    if plan.fits:
        return
    raise MemoryBudgetError(
        f"{name} needs {size_text(plan.total_bytes)} for a text of {plan.context:,} tokens, "
        f"however it is held (weights {size_text(plan.weights_bytes)}, cache "
        f"{size_text(plan.cache_bytes)}, workspace {size_text(plan.workspace_bytes)}), the memory "
        f"budget is {size_text(budget_bytes)}; {_what_would_do(needs, name, plan)}"
    )


def check_whole(
    programs: Sequence[ModelNeeds], name: str, budget_bytes: int, text: Extent, n_texts: int = 1
) -> None:
    """As `check_fits`, for so many texts at once, where nothing shall step down.

    programs: what is held at the same time to be compared. name: of what does the most.
    """
    weights = sum(needs.weights_bytes for needs in programs)
    work = sum(_whole_bytes(needs, budget_bytes, text, n_texts) for needs in programs)
    total = weights + work + OTHER_BYTES
    if total > budget_bytes:
        raise MemoryBudgetError(
            f"{name} needs {size_text(total)} (weights {size_text(weights)}, caches and workspace "
            f"of {n_texts} x {text.end:,} tokens {size_text(work)}), the memory budget is "
            f"{size_text(budget_bytes)}; ask for shorter or fewer texts, or --memory {total}"
        )


def _whole_bytes(needs: ModelNeeds, budget_bytes: int, text: Extent, n_texts: int) -> int:
    """Caches and workspace."""
    plan = needs.plan(text.end, budget_bytes)
    if n_texts == 1:
        return plan.cache_bytes + plan.workspace_bytes
    return batch_bytes(
        needs.config,
        [text] * n_texts,
        needs.activation_bytes,
        scratch=needs.scratch,
    )


def _what_would_do(needs: ModelNeeds, name: str, plan: MemoryPlan) -> str:
    bits = min(KV_BITS) if can_quantize(needs.config.head_dim) else None
    context = needs.max_context(plan.budget_bytes, bits, prefill_tokens=SMALLEST_CHUNK)
    if context:
        return f"--context {context}" + (f" --kv-bits {bits} fit" if bits else " fits")
    fewer = needs.fitting_bits(plan.context, plan.budget_bytes)
    if fewer is not None:
        return f"{convert_command(name, '--bits', str(fewer))} makes one that fits"
    return f"--memory {plan.total_bytes} would do, or a smaller model"
