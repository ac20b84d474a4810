"""Several prompts become texts together: the weights are read once a token for all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Unpack

import mlx.core as mx

from mlx_mistral.completion import FinishReason, Prompt, prompt_ids
from mlx_mistral.generation import BatchGenerator, Sampling, SamplingOptions, stream_seed
from mlx_mistral.generation.clock import Clock
from mlx_mistral.generation.prefill import Progress
from mlx_mistral.memory.governor import Tell, log
from mlx_mistral.model import Model
from mlx_mistral.text.reply import ReplyText
from mlx_mistral.tuning import prefill_tokens

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchStats:
    """How one text of a batch came about; the speed is that of the whole batch."""

    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    """GB, of 10^9 bytes."""
    finish_reason: FinishReason


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResponse:
    """One entry a prompt."""

    texts: list[str]
    token_ids: list[list[int]]
    stats: list[BatchStats]


def batch_generate(
    model: Model,
    tokenizer: Tokenizer | None,
    prompts: Sequence[Prompt],
    max_tokens: int = 256,
    *,
    stop: Sequence[str] = (),
    context: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: int | None = None,
    progress: Progress | None = None,
    max_batch: int = 32,
    tell: Tell = log,
    **sampling: Unpack[SamplingOptions],
) -> BatchResponse:
    """Replies to several prompts, decoded together; arguments as in `stream_generate`.

    Each reply is what its prompt gets alone. Equal prompts are read once. With a seed, the first
    prompt is drawn for as by that seed, and the one of index i by `stream_seed(seed, i)`,
    however many there are.
    max_batch: how many run at once; the others wait until one of them ends. Fewer do where the
        model has a memory budget that does not hold so many.
    tell: told that in a line, and what else is done to stay inside.
    Raises: MemoryBudgetError: the budget does not hold even one.
    """
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    rows = [_Row(tokenizer, stop) for _ in ids]
    clock = Clock(sum(map(len, ids)))
    batch = BatchGenerator(
        model,
        max_batch=max_batch,
        context=context,
        kv_bits=kv_bits,
        prefill_step_size=prefill_step_size or prefill_tokens(model.config, model.dtype),
        progress=progress,
        tell=tell,
    )
    first = Sampling(**sampling)
    for i, prompt in enumerate(ids):
        seed = None if first.seed is None else stream_seed(first.seed, i)
        batch.insert(prompt, max_tokens=max_tokens, sampling=replace(first, seed=seed))
    while batch:
        made = batch.next()
        clock.tick(len(made))
        for new in made:
            rows[new.id].add(new.token)
            if rows[new.id].ended:
                batch.remove(new.id)
    return BatchResponse(
        texts=[row.finish() for row in rows],
        token_ids=[row.token_ids for row in rows],
        stats=[
            BatchStats(
                prompt_tokens=len(prompt),
                prompt_tps=clock.prompt_tps,
                generation_tokens=len(row.token_ids),
                generation_tps=clock.generation_tps,
                peak_memory=mx.get_peak_memory() / 1e9,
                finish_reason="stop" if row.ended else "length",
            )
            for row, prompt in zip(rows, ids, strict=True)
        ],
    )


class _Row:
    """One text of a batch."""

    def __init__(self, tokenizer: Tokenizer | None, stop: Sequence[str]) -> None:
        self._text = ReplyText(tokenizer, stop)
        self._parts: list[str] = []
        self.token_ids: list[int] = []
        self.ended = False

    def add(self, token: int) -> None:
        self.token_ids.append(token)
        delta, self.ended = self._text.add(token)
        self._parts.append(delta)

    def finish(self) -> str:
        if not self.ended:
            self._parts.append(self._text.finish())
        return "".join(self._parts)
