"""A cache that keeps every token, for layers without a window."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import mlx.core as mx

from mlx_mistral.errors import ContextError

from .base import KVCache, Snapshot
from .fixed import Form, n_seen, round_up
from .mask import Mask, attention_mask
from .quantized import Rows

_branch_ids = count()


class GrowingCache(KVCache):
    """Keys and values of all tokens so far, in order, in a buffer that grows by steps.

    limit: refuse to hold more tokens than this (and never allocate for more).
    """

    def __init__(
        self,
        *,
        limit: int | None = None,
        left_padding: Sequence[int] | None = None,
        kv_bits: int | None = None,
    ) -> None:
        super().__init__(left_padding, kv_bits)
        self._limit = limit
        # Where the text was last rewritten, oldest first: (first column, unique id).
        self._branches: list[tuple[int, int]] = [(0, next(_branch_ids))]

    @property
    def limit(self) -> int | None:
        return self._limit

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Rows, Rows]:
        """Raises: ContextError: the text would outgrow the limit; nothing is stored."""
        end = self.offset + keys.shape[2]
        if self._limit is not None and end > self._limit:
            raise ContextError(
                f"{end} tokens do not fit a context of {self._limit}; "
                "shorten the text or ask for a larger context"
            )
        new_keys, new_values = self._stored(keys), self._stored(values)
        self._reserve(self._room_for(end), new_keys, new_values)
        self._write(self.offset, new_keys, new_values)
        self.offset = end
        return self._leading(end)

    def make_mask(
        self, n_new: int, window_size: int | None = None, return_array: bool = False
    ) -> Mask:
        if self.left_padding is None:
            return attention_mask(n_new, self.offset, return_array=return_array)
        columns = mx.arange(self.offset + n_new)
        return self._mask_padding(columns[self.offset :], columns, None)

    def can_trim(self, n: int) -> bool:
        return True

    def snapshot(self) -> Snapshot:
        """Only the place is noted: the keys before it stay where they are."""
        return Snapshot(type(self), self.offset, self._branch_at(self.offset))

    def can_restore(self, snapshot: Snapshot) -> bool:
        return (
            snapshot.owner is type(self)
            and snapshot.offset <= self.offset
            and self._branch_at(snapshot.offset) == snapshot.data
        )

    def _form_of_next(self, n_new: int) -> Form | None:
        end = self.offset + n_new
        if self._limit is not None and end > self._limit:
            return None
        capacity, is_padded = self._room_for(end), self.left_padding is not None
        seen = n_seen(end, capacity)
        return Form(None, capacity, seen, "in order", n_new, None, self.kv_bits, is_padded)

    def _room_for(self, end: int) -> int:
        if end <= self.capacity:
            return self.capacity
        return round_up(end) if self._limit is None else min(round_up(end), self._limit)

    def _anew(self, kv_bits: int) -> GrowingCache:
        return GrowingCache(limit=self._limit, left_padding=self.left_padding, kv_bits=kv_bits)

    def _restore(self, snapshot: Snapshot) -> None:
        self._rewind(snapshot.offset)

    def _rewind(self, offset: int) -> None:
        if offset < self.offset:
            kept = [branch for branch in self._branches if branch[0] < offset]
            self._branches = [*kept, (offset, next(_branch_ids))]
            self.offset = offset

    def _branch_at(self, offset: int) -> int | None:
        """Which writing produced the token before `offset`; the start belongs to every text."""
        return next((id_ for first, id_ in reversed(self._branches) if first < offset), None)
