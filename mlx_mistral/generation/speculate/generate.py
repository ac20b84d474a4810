"""A prompt in, tokens out, as `generate_ids`, with drafts."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.generation.decode import MayGoOn, Step
from mlx_mistral.generation.prefill import Progress, StepSize, prefill
from mlx_mistral.generation.prompt import check_prompt, check_room
from mlx_mistral.generation.sampling import Sampler, Sampling
from mlx_mistral.model import Model
from mlx_mistral.token_ids import TokenIds, plain_ids

from .decode import Counts, Drafter, DraftingDecoder
from .draft_model import ModelDrafter
from .length import DraftLength
from .ngram import NgramDrafter


def generate_with_drafts(
    model: Model,
    prompt: TokenIds,
    *,
    cache: Sequence[KVCache],
    sampling: Sampling,
    max_tokens: int,
    draft_model: Model | None = None,
    before: TokenIds = (),
    prefill_step_size: StepSize = 512,
    progress: Progress | None = None,
    may_go_on: MayGoOn | None = None,
    counts: Counts | None = None,
) -> Generator[Step, None, None]:
    """Yields up to max_tokens tokens that follow what the cache holds and the prompt.

    draft_model: writes the drafts; None takes them from the text so far.
    before: the tokens that the cache holds already, to draft from as well.
    counts: filled with what drafting did.
    When it ends or is closed, the cache holds all tokens that were yielded, or all but the last.
    Raises: as `generate_ids`; MlxMistralError: the draft model has another vocabulary.
    """
    ids = check_prompt(prompt, model.config)
    room = check_room(len(ids), cache, model.config)
    budget = max_tokens if room is None else min(max_tokens, room)
    if budget < 1:
        return
    text = [*plain_ids(before, "the cached text"), *ids]
    drafter: Drafter
    lengths = DraftLength()
    if draft_model is None:
        drafter = NgramDrafter(text)
    else:
        drafter = smaller = ModelDrafter(
            draft_model,
            text,
            vocab_size=model.config.vocab_size,
            prefill_step_size=prefill_step_size if isinstance(prefill_step_size, int) else 512,
        )
        lengths = DraftLength(seconds_per_drafted=smaller.begin())
    logits = prefill(model, mx.array([ids]), cache, step_size=prefill_step_size, progress=progress)
    sampler = Sampler(sampling, model.config.vocab_size, [ids])
    decoder = DraftingDecoder(
        model, cache, sampler, drafter, lengths=lengths, counts=counts, may_go_on=may_go_on
    )
    yield from decoder.decode(logits, budget)
