"""Where a chat's own text begins, behind what all chats with its system prompt begin with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile

from mlx_mistral.errors import TokenizerError


def stem_length(ids: Sequence[int], encode: Callable[[str], list[int]]) -> int:
    """How many tokens of a chat stand there whatever is said; 0: the format has no such place.

    encode: the ids of a chat whose first message, after the system prompt, is a given text.
    """
    try:
        pairs = zip(encode("0"), encode("1"), strict=False)
    except TokenizerError:
        return 0
    stem = [one for one, _ in takewhile(lambda pair: pair[0] == pair[1], pairs)]
    return len(stem) if list(ids[: len(stem)]) == stem else 0
