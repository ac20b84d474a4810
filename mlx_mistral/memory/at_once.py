"""How many texts of a model are decoded together inside its budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_mistral.config.sizes import size_text
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.model import Model

from .batch import batch_cache_bytes, largest_batch
from .governor import SMALLEST_CHUNK, Tell, gathers_float32
from .workspace import VOCABULARY_ROWS, pass_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """So many texts at once, their prompts in chunks of so many tokens."""

    texts: int
    prefill_tokens: int


def pace_within(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    max_batch: int,
    prefill_tokens: int,
    context: int | None,
    kv_bits: int | None,
    tell: Tell,
) -> Pace:
    """What is asked for as far as the budget goes: smaller chunks first, then fewer at once.

    Nothing may be under way on the device. tell: told in a line that fewer run.
    Raises: MemoryBudgetError: the budget does not hold even one.
    """
    pace = Pace(texts=max_batch, prefill_tokens=prefill_tokens)
    if model.budget_bytes is None or not prompts:
        return pace
    config, n_bytes = model.config, model.dtype.size
    ends = (context, config.max_context, max(map(len, prompts)) + max_tokens)
    longest = min(end for end in ends if end is not None)
    one = batch_cache_bytes(config, 1, longest, n_bytes, kv_bits)
    different = {tuple(prompt) for prompt in prompts}
    free = model.budget_bytes - mx.get_active_memory() - model.reserved_bytes

    def fits(n: int, chunk: int) -> bool:
        read = sum(sorted(map(len, different))[-n:])
        work = pass_bytes(
            config,
            max(min(chunk, read), n),
            longest,
            n_bytes,
            gathers_float32=gathers_float32(model),
            kv_bits=kv_bits,
        )
        work += (n - 1) * 4 * VOCABULARY_ROWS * config.vocab_size
        # A prompt that others wait for is kept as it was read.
        kept = one if n < len(prompts) and len(different) < len(prompts) else 0
        return largest_batch(free - work - kept, config, longest, n_bytes, kv_bits) >= n

    wanted, chunk = min(max_batch, len(prompts)), prefill_tokens
    while not fits(wanted, chunk) and chunk > SMALLEST_CHUNK:
        chunk = max(chunk // 2, SMALLEST_CHUNK)
    n_fitting = next((n for n in range(wanted, 0, -1) if fits(n, chunk)), 0)
    if not n_fitting:
        raise MemoryBudgetError(
            f"{len(prompts)} texts of up to {longest} tokens do not fit the memory budget of "
            f"{size_text(model.budget_bytes)}, not even one at a time; ask for fewer --max-tokens "
            "or give more with --memory"
        )
    if n_fitting < wanted:
        tell(
            f"the memory budget of {size_text(model.budget_bytes)} holds {n_fitting} of "
            f"{len(prompts)} texts at once; the others wait"
        )
    return Pace(texts=n_fitting, prefill_tokens=chunk)
