"""How a text longer than the context is cut, so that each of its tokens is scored once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import ContextError

DEFAULT_CONTEXT = 2048
"""Where neither the caller nor the model asks for less: what most published figures use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """What the model reads at once, and which tokens it is asked for."""

    inputs: list[int]
    """BOS and then text: at most `context` tokens."""
    targets: list[int]
    """What follows each of the last `len(targets)` inputs."""


def blocks(ids: Sequence[int], *, bos_id: int, context: int, stride: int) -> Iterator[Block]:
    """The blocks of a text without BOS, in order; all read equally many tokens.

    The first asks for as many tokens as it holds, each later one for the next `stride`, and the
    last for what is left. So a token sees at least `context - stride` of the text before it, or
    all where the text has no more. `stride == context` cuts without overlap.
    Raises: ContextError: not 1 <= stride <= context.
    """
    check_stride(context, stride)
    done = 0
    while done < len(ids):
        end = min(done + (stride if done else context), len(ids))
        start = max(0, end - context)
        yield Block(inputs=[bos_id, *ids[start : end - 1]], targets=list(ids[done:end]))
        done = end


def count_blocks(n_tokens: int, *, context: int, stride: int) -> int:
    """How many blocks a text of `n_tokens` has."""
    return 0 if n_tokens < 1 else 1 + -(-max(0, n_tokens - context) // stride)


def check_stride(context: int, stride: int) -> None:
    """Raises: ContextError: not 1 <= stride <= context."""
    if context < 1:
        raise ContextError(f"a context of {context} tokens holds nothing; ask for at least 1")
    if not 1 <= stride <= context:
        raise ContextError(
            f"a stride of {stride} tokens does not fit blocks of {context}; "
            f"give one from 1 to {context}"
        )


def default_stride(context: int) -> int:
    """Half a block: every token but those of the text's start sees the other half."""
    return max(1, context // 2)


def choose_context(asked: int | None, *configs: ModelConfig) -> int:
    """The tokens of a block: as asked, else what all models were made for, at most 2048.

    Raises: ContextError: more than one of the models was made for.
    """
    limits = [config.max_context for config in configs if config.max_context is not None]
    if asked is None:
        return min([DEFAULT_CONTEXT, *limits])
    if limits and asked > min(limits):
        raise ContextError(
            f"a context of {asked} tokens is more than the {min(limits)} that the model was made "
            "for; ask for less"
        )
    return asked


def describe(n_tokens: int, *, context: int, stride: int) -> str:
    """The method in words, since a perplexity means little without it."""
    if n_tokens <= context:
        return f"one block of {n_tokens} tokens"
    if stride == context:
        return f"blocked: blocks of {context} tokens without overlap"
    return f"sliding: blocks of {context} tokens, {stride} new in each"
