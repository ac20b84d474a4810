"""Conversations and branches that were left, in memory while there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlx_mistral.cache import PrefixCache, SharedPrefixes
from mlx_mistral.cache.sharing import MIN_TOKENS

MAX_LEFT = 32


class LeftTexts:
    """What was read of texts that nobody goes on with now, the longest left first.

    What they have in common is held once. limit_bytes: for all of them; those that were left
    first go first.
    """

    def __init__(self, shared: SharedPrefixes, limit_bytes: int) -> None:
        self._shared, self._limit_bytes = shared, limit_bytes
        self._left: list[PrefixCache] = []

    def __len__(self) -> int:
        return len(self._left)

    def choose(
        self, current: PrefixCache, ids: Sequence[int], new: Callable[[], PrefixCache]
    ) -> PrefixCache:
        """What a prompt is read with: the text that it goes on from, else a new one.

        current: stays, where the prompt goes on from another text or from before its end.
        """
        goes_on = [one for one in (current, *self._left) if _lost(one, ids) < MIN_TOKENS]
        best = max(goes_on, key=lambda one: one.reusable(ids), default=None)
        if best is current:
            return current
        if best is not None:
            self._left.remove(best)
        if _lost(current, ids) >= MIN_TOKENS and not self._leave(current) and best is None:
            return current
        return best or new()

    def clear(self) -> None:
        self._left.clear()

    def _leave(self, text: PrefixCache) -> bool:
        """Whether there is room for one more."""
        self._left.append(text)
        while self._left and (
            len(self._left) > MAX_LEFT or self._shared.nbytes > self._limit_bytes
        ):
            del self._left[0]
        return text in self._left


def _lost(text: PrefixCache, ids: Sequence[int]) -> int:
    """How many tokens of a text a prompt does not go on from."""
    return text.layers[0].offset - text.reusable(ids)
