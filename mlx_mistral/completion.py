"""A prompt becomes text: the functions most programs call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Literal, TypedDict, Unpack

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.errors import TokenizerError
from mlx_mistral.generation import Sampling, SamplingOptions, Step, generate_ids
from mlx_mistral.generation.clock import Clock
from mlx_mistral.generation.decode import MayGoOn
from mlx_mistral.generation.prefill import Progress, StepSize
from mlx_mistral.generation.speculate import Counts, generate_with_drafts
from mlx_mistral.generation.speculate.length import LENGTHS
from mlx_mistral.memory.governor import Governor, Tell, governor_of, log
from mlx_mistral.memory.limits import model_limits
from mlx_mistral.memory.pass_needs import text_bytes
from mlx_mistral.model import Model
from mlx_mistral.text.reply import ReplyText
from mlx_mistral.token_ids import TokenIds, plain_ids
from mlx_mistral.tuning import prefill_tokens

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

Prompt = str | TokenIds | mx.array
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerationResponse:
    """One new token. The texts of all responses together are the reply.

    What mlx-lm's class of this name has, and the step.
    """

    text: str
    """What this token adds to the text; empty while a character is incomplete."""
    token: int
    from_draft: bool
    prompt_tokens: int
    prompt_tps: float
    generation_tokens: int
    generation_tps: float
    peak_memory: float
    """GB, of 10^9 bytes."""
    finish_reason: FinishReason | None = None
    step: Step = field(repr=False)
    """Where the token comes from."""

    @property
    def logprobs(self) -> mx.array:
        """Log probabilities over the vocabulary, made for whoever asks. Shapes: -> (vocab,)."""
        return _log_probabilities(self.step.logits)


def stream_generate(
    model: Model,
    tokenizer: Tokenizer | None,
    prompt: Prompt,
    *,
    max_tokens: int = 256,
    stop: Sequence[str] = (),
    prompt_cache: Sequence[KVCache] | None = None,
    context: int | None = None,
    kv_bits: int | None = None,
    prefill_step_size: StepSize | None = None,
    progress: Progress | None = None,
    speculate: bool = False,
    draft_model: Model | None = None,
    cached_ids: TokenIds = (),
    draft_counts: Counts | None = None,
    tell: Tell = log,
    spare: Callable[[], None] | None = None,
    **sampling: Unpack[SamplingOptions],
) -> Generator[GenerationResponse, None, None]:
    """Yields a response for each token as it is made.

    prompt: text, encoded after BOS with no chat format, or token ids, taken as they are.
    tokenizer: None works on ids alone: texts stay empty and only max_tokens ends the reply.
    prompt_cache: from `model.make_cache()`; what it holds comes before the prompt, and it is
        updated in place. It stays usable when the caller stops early.
    context: bounds the cache to this many tokens, prompt and reply together.
    kv_bits: 8 or 4 holds keys and values in so many bits; for a cache that is given, it has
        been said when that was made.
    prefill_step_size: prompt tokens that are read at a time; None: as `bench --sweep` measured for
        such a model on this machine, else by a rule; what is called is asked before each chunk.
        Rounding depends on it, nothing else.
    progress: called with the prompt tokens read so far and their total.
    speculate: draft tokens from the text so far and check several a pass; the reply is the same.
    draft_model: let this smaller model of the same tokenizer write the drafts.
    cached_ids: the tokens that prompt_cache holds, to draft from as well.
    draft_counts: filled with what drafting did.
    tell: told in a line of each step down, where the model's memory budget runs short.
    spare: called then, to free what the caller could do without.
    sampling: temp, top_k, top_p, min_p, repetition_penalty, seed; see `Sampling`.
    The last response has a finish_reason: "stop" at an end-of-text token or stop string,
    "length" at max_tokens or the end of the context or of the memory budget.
    Raises: ContextError: the prompt does not fit. MemoryBudgetError: it does not fit the model's
    budget. TokenizerError: it cannot be encoded.
    """
    ids = prompt_ids(tokenizer, prompt)
    cache = prompt_cache or model.make_cache(context=context, kv_bits=kv_bits)
    text = ReplyText(tokenizer, stop)
    clock = Clock(len(ids))
    step_size = prefill_step_size or prefill_tokens(model.config, model.dtype)
    options: _CommonOptions = {
        "cache": cache,
        "sampling": Sampling(**sampling),
        "max_tokens": max_tokens,
        "prefill_step_size": step_size,
        "progress": progress,
        "may_go_on": None,
    }
    n_most = cache[0].offset + len(ids) + max_tokens
    drafting = 0 if draft_model is None else text_bytes(draft_model, n_most)
    drafts = speculate or draft_model is not None
    governor = governor_of(
        model,
        cache,
        tell=tell,
        spare=spare,
        reserved_bytes=drafting,
        pass_tokens=1 + LENGTHS[-1] if drafts else 1,
    )

    def begin() -> Generator[Step, None, None]:
        if governor is not None:
            governor.check(len(ids))
            options["prefill_step_size"] = partial(_governed, governor, step_size)
            options["may_go_on"] = governor.may_go_on
        if not drafts:
            return generate_ids(model, ids, **options)
        return generate_with_drafts(
            model, ids, draft_model=draft_model, before=cached_ids, counts=draft_counts, **options
        )

    # Closed at once where the reply ends early: drafts must not stay in the cache.
    with model_limits(model, n_most), closing(begin()) as steps:
        for step in steps:
            clock.tick()
            delta, ended = text.add(step.token)
            reason: FinishReason | None = "stop" if ended else "length" if step.is_last else None
            yield GenerationResponse(
                text=delta + text.finish() if reason == "length" else delta,
                token=step.token,
                from_draft=step.from_draft,
                prompt_tokens=len(ids),
                prompt_tps=clock.prompt_tps,
                generation_tokens=clock.n,
                generation_tps=clock.generation_tps,
                peak_memory=mx.get_peak_memory() / 1e9,
                finish_reason=reason,
                step=step,
            )
            if reason:
                return


class _CommonOptions(TypedDict):
    """What decoding takes with and without drafts."""

    cache: Sequence[KVCache]
    sampling: Sampling
    max_tokens: int
    prefill_step_size: StepSize
    progress: Progress | None
    may_go_on: MayGoOn | None


class GenerationOptions(SamplingOptions, total=False):
    """The keyword arguments of `stream_generate`."""

    max_tokens: int
    stop: Sequence[str]
    prompt_cache: Sequence[KVCache] | None
    context: int | None
    kv_bits: int | None
    prefill_step_size: StepSize | None
    progress: Progress | None
    speculate: bool
    draft_model: Model | None
    cached_ids: TokenIds
    draft_counts: Counts | None
    tell: Tell
    spare: Callable[[], None] | None


def generate(
    model: Model,
    tokenizer: Tokenizer | None,
    prompt: Prompt,
    **options: Unpack[GenerationOptions],
) -> str:
    """The whole reply at once; see `stream_generate`."""
    return "".join(r.text for r in stream_generate(model, tokenizer, prompt, **options))


def prompt_ids(tokenizer: Tokenizer | None, prompt: Prompt) -> list[int]:
    """Return the ids of a prompt: text encoded after BOS, token ids as plain integers.

    Raises: TokenizerError: text without a tokenizer, or no sequence of integers.
    """
    if isinstance(prompt, str):
        if tokenizer is None:
            raise TokenizerError("a prompt of text needs a tokenizer; give one, or token ids")
        return [tokenizer.bos_id, *tokenizer.encode(prompt)] if prompt else []
    return plain_ids(prompt)


def _governed(governor: Governor, step_size: StepSize) -> int:
    return governor.chunk(step_size if isinstance(step_size, int) else step_size())


def _log_probabilities(logits: mx.array) -> mx.array:
    logits = logits.astype(mx.float32)
    return logits - mx.logsumexp(logits)
