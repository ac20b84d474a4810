"""Decoding several texts together, each token's weights read once for all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.model import Model

from .decode import decode
from .prefill import Progress, prefill
from .prompt import check_prompt, check_room
from .sampling import Sampler, Sampling


@dataclass(frozen=True, slots=True, eq=False)
class BatchStep:
    """One new token for each text. Shapes: logits (B, vocab)."""

    tokens: list[int]
    logits: mx.array
    is_last: bool


def generate_batch(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    max_tokens: int,
    context: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int = 512,
    progress: Progress | None = None,
) -> Iterator[BatchStep]:
    """Yields up to max_tokens steps; the caller stops when every text has ended.

    Shorter prompts are padded on the left, and the padding is hidden from every token, so
    each text gets the tokens that it would get alone.
    Raises: as `generate_ids`; MlxMistralError: there is no prompt.
    """
    if not prompts:
        raise MlxMistralError("there is no prompt; give at least one")
    for prompt in prompts:
        check_prompt(prompt, model.config)
    longest = max(map(len, prompts))
    padding = [longest - len(prompt) for prompt in prompts]
    cache = model.make_cache(context=context, kv_bits=kv_bits, left_padding=padding)
    room = check_room(longest, cache, model.config)
    budget = max_tokens if room is None else min(max_tokens, room)
    if budget < 1:
        return
    sampler = Sampler(sampling, model.config.vocab_size, prompts)
    rows = [[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)]
    logits = prefill(model, mx.array(rows), cache, step_size=prefill_step_size, progress=progress)
    for tokens, drawn_from, is_last, _ in decode(model, cache, logits, sampler, budget):
        yield BatchStep(tokens, drawn_from, is_last)
