"""Token ids are checked before a library sees them: several read -1 as a valid index."""

from __future__ import annotations

from collections.abc import Iterable

from mlx_mistral.errors import TokenizerError
from mlx_mistral.token_ids import plain_ids


def checked_id(token_id: int, vocab_size: int) -> int:
    """`token_id` as a plain int within the vocabulary.

    Raises: TokenizerError: it is no integer, negative, or beyond the vocabulary.
    """
    return checked_ids([token_id], vocab_size)[0]


def _inside(value: int, vocab_size: int) -> int:
    if not 0 <= value < vocab_size:
        raise TokenizerError(
            f"token id {str(value)[:40]} is outside the tokenizer's vocabulary of {vocab_size}; "
            "use the tokenizer that belongs to the model"
        )
    return value


def checked_ids(token_ids: Iterable[int], vocab_size: int) -> list[int]:
    """Every id as a plain int within the vocabulary.

    Raises: TokenizerError: as `checked_id`, or no sequence of integers.
    """
    return [_inside(value, vocab_size) for value in plain_ids(token_ids, "the token list")]


def checked_text(text: str) -> str:
    """Raises: TokenizerError: `text` is not a str."""
    if not isinstance(text, str):
        raise TokenizerError(f"{type(text).__name__} was given where text belongs; pass a str")
    return text
