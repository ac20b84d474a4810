"""What is checked about a prompt before the device sees it."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.cache import KVCache
from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import ContextError, MlxMistralError
from mlx_mistral.token_ids import TokenIds, plain_ids, shown_id


def check_prompt(prompt: TokenIds, config: ModelConfig) -> list[int]:
    """Return a prompt's ids as plain integers, all of them inside the vocabulary.

    MLX reads an id outside of it without an error.
    Raises: MlxMistralError: an id is outside, or the prompt is empty. TokenizerError: no sequence
    of integers.
    """
    ids = plain_ids(prompt)
    if not ids:
        raise MlxMistralError("the prompt is empty; give at least one token")
    for place, token in enumerate(ids):
        if not 0 <= token < config.vocab_size:
            raise MlxMistralError(
                f"token {place} of the prompt has id {shown_id(token)}, outside the model's "
                f"vocabulary of {config.vocab_size}; the tokenizer does not belong to this model"
            )
    return ids


def room_in(cache: Sequence[KVCache], config: ModelConfig) -> int | None:
    """How many more tokens the caches and the model's positions hold; None: any number."""
    limits = [one.limit for one in cache] + [config.max_context]
    known = [limit for limit in limits if limit is not None]
    return min(known) - cache[0].offset if known else None


def check_room(n_prompt: int, cache: Sequence[KVCache], config: ModelConfig) -> int | None:
    """How many tokens can follow the prompt; None: any number.

    Raises: ContextError: not even one.
    """
    room = room_in(cache, config)
    if room is None:
        return None
    if n_prompt >= room:
        before = cache[0].offset
        held = f" after {before} already there" if before else ""
        raise ContextError(
            f"the prompt has {n_prompt} tokens{held}, the context holds {room + before} and must "
            "leave room for an answer; shorten the prompt or ask for a larger context"
        )
    return room - n_prompt
