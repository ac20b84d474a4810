"""Decoding: a token a pass, the next pass under way while one is read."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.errors import CheckpointError
from mlx_mistral.model import Model
from mlx_mistral.token_ids import TokenIds

from .prefill import Interrupt, Progress, StepSize, all_or_nothing, prefill
from .prompt import check_prompt, check_room
from .sampling import Sampler, Sampling
from .step import NAN, NextToken, draw

CLEAR_EVERY = 256
"""Decoded tokens after which MLX's pool of freed buffers is emptied."""

Seen = Mapping[str, mx.array]
Watch = Callable[[mx.array, mx.array], Seen]
"""Given each pass's logits and the tokens drawn from them before either is computed; the arrays
that it returns are computed with them. Shapes: (B, vocab), (B,)."""
MayGoOn = Callable[[], bool]
"""Whether there is room for one pass more."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One new token."""

    token: int
    drawn_from: mx.array
    """A batch of its logits alone, (1, vocab)."""
    is_last: bool
    seen: Seen = field(default_factory=dict)
    """What a `Watch` asked for."""
    from_draft: bool = False

    @property
    def logits(self) -> mx.array:
        """What the token was drawn from. Shapes: -> (vocab,)."""
        return self.drawn_from[0]


def generate_ids(
    model: Model,
    prompt: TokenIds,
    *,
    cache: Sequence[KVCache],
    sampling: Sampling,
    max_tokens: int,
    prefill_step_size: StepSize = 512,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
    watch: Watch | None = None,
    may_go_on: MayGoOn | None = None,
) -> Generator[Step, None, None]:
    """Yields up to max_tokens tokens that follow what the cache holds and the prompt.

    may_go_on: asked before each pass after the prompt's; where it says no, the token that is
        then known is the last. It may replace caches in the list.

    When a token is yielded, the cache holds all tokens up to it, or up to the one before;
    `cache[0].offset` says which. It stays usable when the caller stops, or is interrupted.
    Raises: ContextError: the prompt does not fit; MlxMistralError: it holds an unknown id;
    CheckpointError: the logits are NaN.
    """
    ids = check_prompt(prompt, model.config)
    room = check_room(len(ids), cache, model.config)
    budget = max_tokens if room is None else min(max_tokens, room)
    if budget < 1:
        return
    sampler = Sampler(sampling, model.config.vocab_size, [ids])
    logits = prefill(
        model,
        mx.array([ids]),
        cache,
        step_size=prefill_step_size,
        progress=progress,
        interrupt=interrupt,
    )
    made = decode(model, cache, logits, sampler, budget, watch, may_go_on)
    for tokens, drawn_from, is_last, seen in made:
        yield Step(tokens[0], drawn_from, is_last, seen)


def decode(
    model: Model,
    cache: Sequence[KVCache],
    logits: mx.array,
    sampler: Sampler,
    budget: int,
    watch: Watch | None = None,
    may_go_on: MayGoOn | None = None,
) -> Iterator[tuple[list[int], mx.array, bool, Seen]]:
    """Draws `budget` tokens for each of B texts, the first ones from the prompts' logits.

    Yields the B tokens, the logits they were drawn from, whether they are the last, and what
    `watch` asked for.
    Shapes: logits (B, vocab). Raises: CheckpointError: the logits are NaN.
    """
    step = NextToken(model, cache, sampler)
    token = draw(sampler, logits)
    seen = watch(logits, token) if watch else {}
    mx.async_eval(token, seen)
    for n in range(1, budget + 1):
        is_last = n == budget or (may_go_on is not None and not may_go_on())
        if not is_last:
            with all_or_nothing(cache, 1):
                next_logits, next_token = step(token)
            next_seen = watch(next_logits, next_token) if watch else {}
            if step.may_overlap:
                mx.async_eval(next_token, next_seen)
        # Waits for the pass before, while the next one runs or stands ready.
        drawn: Any = token.tolist()
        if NAN in drawn:
            raise nan_error(n)
        if not is_last and not step.may_overlap:
            mx.async_eval(next_token, next_seen)
        yield drawn, logits, is_last, seen
        if is_last:
            return
        token, logits, seen = next_token, next_logits, next_seen
        if n % CLEAR_EVERY == 0:
            mx.clear_cache()


def nan_error(n: int) -> CheckpointError:
    return CheckpointError(
        f"the model's logits at new token {n} are NaN; its weights are damaged or too large for "
        "this dtype: try float32, or download it again"
    )
