"""A ring of the last W keys, for layers with a sliding window of W."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .base import KVCache, Snapshot, round_up
from .mask import Mask, attention_mask


class RotatingCache(KVCache):
    """The keys and values of the last `window` tokens, however long the text.

    The token of column c lives in slot c mod W. With W = 4, after 6 tokens:

        slot     0  1  2  3
        column   4  5  2  3      the next token, column 6, overwrites column 2

    One new token sees the whole ring: softmax does not care about the order of keys,
    RoPE has already marked their positions, and the ring holds exactly the W that it may
    see, itself included. Several new tokens see up to W - 1 keys before them, put back in
    order, and each other, under a banded mask.
    Source: arXiv:2310.06825, section 2 (rolling buffer cache).
    """

    def __init__(self, window: int, *, left_padding: Sequence[int] | None = None) -> None:
        super().__init__(left_padding)
        self._window = window
        self._oldest = 0  # the first column whose key has not been overwritten

    @property
    def window(self) -> int:
        return self._window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        n_new = keys.shape[2]
        if n_new == 1:
            self._store(keys, values)
            assert self.keys is not None
            assert self.values is not None
            seen = min(self.offset, self._window)
            return self.keys[..., :seen, :], self.values[..., :seen, :]
        past = self._past()
        if past is None:
            seen_keys, seen_values = keys, values
        else:
            seen_keys = mx.concatenate([past[0], keys], axis=2)
            seen_values = mx.concatenate([past[1], values], axis=2)
        last = min(n_new, self._window)
        self.offset += n_new - last
        self._store(keys[..., n_new - last :, :], values[..., n_new - last :, :])
        return seen_keys, seen_values

    def make_mask(
        self, n_new: int, window_size: int | None = None, return_array: bool = False
    ) -> Mask:
        n_past = min(self.offset, self._window - 1)
        if self.left_padding is None:
            # In the ring, one new token sees every key: there is nothing to mask.
            return attention_mask(
                n_new, n_past, self._window, return_array=return_array and n_new > 1
            )
        first = self.offset - n_past
        if n_new == 1:
            if first >= max(self.left_padding):
                return None
            columns = self._columns_in_ring()
        else:
            columns = mx.arange(first, self.offset + n_new)
        queries = mx.arange(self.offset, self.offset + n_new)
        return self._mask_padding(queries, columns, self._window)

    def can_trim(self, n: int) -> bool:
        """All, or as many as leave the W - 1 keys before that place in the ring."""
        if n in (0, self.offset):
            return True
        return max(0, self.offset - n - self._window + 1) >= self._oldest

    def is_trimmable(self) -> bool:
        return self._oldest == 0

    def snapshot(self) -> Snapshot:
        """Holds the ring itself; the next write then goes to a copy of W tokens."""
        return Snapshot(type(self), self.offset, (self._window, self._oldest, self.state))

    def can_restore(self, snapshot: Snapshot) -> bool:
        return snapshot.owner is type(self) and bool(snapshot.data[0] == self._window)

    def _restore(self, snapshot: Snapshot) -> None:
        self.offset = snapshot.offset
        _, self._oldest, self.state = snapshot.data

    def _rewind(self, offset: int) -> None:
        self.offset = offset
        self._oldest = min(self._oldest, offset)

    def load(self, buffers: tuple[mx.array, mx.array], offset: int) -> None:
        super().load(buffers, offset)
        self._oldest = max(0, offset - self._window)

    def _store(self, keys: mx.array, values: mx.array) -> None:
        """Writes at most W tokens behind the last one, around the end of the ring."""
        n, window = keys.shape[2], self._window
        end = self.offset + n
        if self.capacity < window:
            self._reserve(min(round_up(end), window), keys, values)
        slot = self.offset % window
        before_end = min(n, window - slot)
        self._write(slot, keys[..., :before_end, :], values[..., :before_end, :])
        if before_end < n:
            self._write(0, keys[..., before_end:, :], values[..., before_end:, :])
        self.offset = end
        self._oldest = max(self._oldest, end - window)

    def _past(self) -> tuple[mx.array, mx.array] | None:
        """Up to W - 1 last keys and values in the order of the text."""
        n = min(self.offset, self._window - 1)
        if n == 0 or self.keys is None or self.values is None:
            return None
        first = (self.offset - n) % self._window
        return _unroll(self.keys, first, n), _unroll(self.values, first, n)

    def _columns_in_ring(self) -> mx.array:
        """Which column each visible slot holds once the next token is written."""
        slots = np.arange(min(self.offset + 1, self._window))
        return mx.array(self.offset - (self.offset - slots) % self._window)


def _unroll(ring: mx.array, first: int, n: int) -> mx.array:
    """n slots from `first` on, around the end of the ring."""
    if first + n <= ring.shape[2]:
        return ring[..., first : first + n, :]
    return mx.concatenate([ring[..., first:, :], ring[..., : first + n - ring.shape[2], :]], axis=2)
