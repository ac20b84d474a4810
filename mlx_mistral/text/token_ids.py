"""Token ids are checked before a library sees them: several read -1 as a valid index."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from mlx_mistral.errors import TokenizerError


def checked_id(token_id: int, vocab_size: int) -> int:
    """`token_id` as a plain int within the vocabulary.

    Raises: TokenizerError: it is no integer, negative, or beyond the vocabulary.
    """
    try:
        value = operator.index(token_id)
    except TypeError as error:
        raise TokenizerError(
            f"token id {str(token_id)[:40]!r} is not an integer; pass token ids, not text"
        ) from error
    if not 0 <= value < vocab_size:
        raise TokenizerError(
            f"token id {str(value)[:40]} is outside the tokenizer's vocabulary of {vocab_size}; "
            "use the tokenizer that belongs to the model"
        )
    return value


def checked_ids(token_ids: Iterable[int], vocab_size: int) -> list[int]:
    """Every id as a plain int within the vocabulary.

    Raises: TokenizerError: as `checked_id`, or `token_ids` cannot be iterated.
    """
    if isinstance(token_ids, str | bytes):
        raise TokenizerError("text was given where token ids belong; pass a list of integers")
    try:
        return [checked_id(token_id, vocab_size) for token_id in token_ids]
    except TypeError as error:
        raise TokenizerError(
            f"{type(token_ids).__name__} was given where token ids belong; pass a list of integers"
        ) from error


def checked_text(text: str) -> str:
    """Raises: TokenizerError: `text` is not a str."""
    if not isinstance(text, str):
        raise TokenizerError(f"{type(text).__name__} was given where text belongs; pass a str")
    return text
