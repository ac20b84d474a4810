"""Token ids as callers pass them: any sequence of integers becomes a list of plain ones."""

from __future__ import annotations

import operator
from collections.abc import Iterable, KeysView, Mapping, Set, ValuesView
from typing import SupportsIndex

from mlx_mistral.errors import TokenizerError

TokenIds = Iterable[SupportsIndex]
"""A list, tuple or range, an `array.array`, a 1-D NumPy or MLX array; mixed types in a list."""

_SHOWN = 40
_UNORDERED = (Mapping, Set, KeysView, ValuesView)
_TEXT = (str, bytes, bytearray, memoryview)


def plain_ids(token_ids: TokenIds, what: str = "the prompt") -> list[int]:
    """Return the ids as a new list of Python integers.

    Example:
        plain_ids(np.array([1, 5])) == plain_ids([1, mx.array(5)]) == [1, 5]
    what: subject of the error message.
    Raises: TokenizerError: not a one-dimensional sequence of integers; booleans are none.
    """
    if isinstance(token_ids, list) and set(map(type, token_ids)) <= {int}:
        return list(token_ids)
    n_dimensions = getattr(token_ids, "ndim", 1)
    if n_dimensions != 1:
        raise _refusal(what, f"is an array of {n_dimensions} dimensions")
    if isinstance(token_ids, (*_TEXT, *_UNORDERED)) or not isinstance(token_ids, Iterable):
        raise _refusal(what, f"is of type {type(token_ids).__name__}")
    to_list = getattr(token_ids, "tolist", None)
    values: Iterable[SupportsIndex] = token_ids if to_list is None else to_list()
    return [_plain_id(value, position, what) for position, value in enumerate(values)]


def shown_id(token_id: int) -> str:
    """Return an id for a message; Python refuses to print integers of thousands of digits."""
    n_bits = token_id.bit_length()
    return str(token_id) if n_bits <= 64 else f"of {n_bits} bits"


def _plain_id(value: SupportsIndex, position: int, what: str) -> int:
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    described = f"{ascii(value)[:_SHOWN]} of type {type(value).__name__}"
    raise _refusal(what, f"has {described} at position {position}")


def _refusal(what: str, problem: str) -> TokenizerError:
    return TokenizerError(
        f"{what} {problem}; give token ids as a list of integers or as a 1-D array of integers"
    )
