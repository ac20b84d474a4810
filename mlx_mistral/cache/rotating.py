"""A ring of the last W keys, for layers with a sliding window of W."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import mlx.core as mx
import numpy as np

from .base import KVCache, Snapshot
from .fixed import Form, n_seen, round_up
from .mask import Mask, attention_mask, visible
from .quantized import Rows
from .rows import cut, join, n_slots, parts_of, unroll


class RotatingCache(KVCache):
    """The keys and values of the last `window` tokens, however long the text.

    The token of column c lives in slot c mod W. With W = 4, after 6 tokens:

        slot     0  1  2  3
        column   4  5  2  3      the next token, column 6, overwrites column 2

    One new token sees the whole ring: softmax does not care about the order of keys,
    RoPE has already marked their positions, and the ring holds exactly the W that it may
    see, itself included. Several new tokens see up to W - 1 keys before them, put back in
    order, and each other, under a banded mask.

    After `allow_trim(n)` the ring has n slots more than its window, so that the last n tokens
    overwrite nothing that the tokens before them see. A few new tokens are then written in
    place, and a mask by column hides what has left the window.
    Source: arXiv:2310.06825, section 2 (rolling buffer cache).
    """

    def __init__(
        self,
        window: int,
        *,
        left_padding: Sequence[int] | None = None,
        kv_bits: int | None = None,
    ) -> None:
        super().__init__(left_padding, kv_bits)
        self._window = window
        self._slots = window
        self._oldest = 0  # the first column whose key has not been overwritten

    @property
    def window(self) -> int:
        return self._window

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Rows, Rows]:
        n_new = keys.shape[2]
        new_keys, new_values = self._stored(keys), self._stored(values)
        if self._fits_in_place(n_new):
            self._store(new_keys, new_values)
            return self._leading(min(self.offset, self._slots))
        past = self._past()
        last = min(n_new, self._slots)
        self.offset += n_new - last
        self._store(cut(new_keys, n_new - last, n_new), cut(new_values, n_new - last, n_new))
        if past is None:
            return new_keys, new_values
        return join(past[0], new_keys), join(past[1], new_values)

    def make_mask(
        self, n_new: int, window_size: int | None = None, return_array: bool = False
    ) -> Mask:
        end = self.offset + n_new
        in_place = self._fits_in_place(n_new)
        hides = in_place and min(end, self._slots) > self._window
        n_past = min(self.offset, self._window - 1)
        if self.left_padding is None and not hides:
            # In the ring, one new token sees every key: there is nothing to mask.
            return attention_mask(
                n_new, n_past, self._window, return_array=return_array and n_new > 1
            )
        queries = mx.arange(self.offset, end)
        columns = self._columns_in_ring(end) if in_place else mx.arange(self.offset - n_past, end)
        if self.left_padding is None:
            return visible(queries, columns, self._window)
        if n_new == 1 and not hides and self.offset - n_past >= max(self.left_padding):
            return None
        return self._mask_padding(queries, columns, self._window)

    def allow_trim(self, n: int) -> None:
        """Copies the ring into one of another size."""
        if self._slots == self._window + n:
            return
        held = self._last(min(self.offset - self._oldest, self._window))
        self._slots = self._window + n
        if held is not None:
            self._refill(*held)

    def can_trim(self, n: int) -> bool:
        """All, or as many as leave the W - 1 keys before that place in the ring."""
        if n in (0, self.offset):
            return True
        return max(0, self.offset - n - self._window + 1) >= self._oldest

    def is_trimmable(self) -> bool:
        return self._oldest == 0

    def snapshot(self) -> Snapshot:
        """Holds the ring itself; the next write then goes to a copy of W tokens."""
        data = ((self._window, self.kv_bits), self._slots, self._oldest, self.state)
        return Snapshot(type(self), self.offset, data)

    def can_restore(self, snapshot: Snapshot) -> bool:
        same = (self._window, self.kv_bits)
        return snapshot.owner is type(self) and bool(snapshot.data[0] == same)

    def advance(self, state: tuple[mx.array, ...], n_new: int = 1) -> None:
        super().advance(state, n_new)
        self._oldest = max(self._oldest, self.offset - self._slots)

    def _form_of_next(self, n_new: int) -> Form | None:
        if not self._fits_in_place(n_new):
            return None
        end, window = self.offset + n_new, self._window
        capacity = self._room_for(end)
        return Form(
            ring=self._slots,
            capacity=capacity,
            seen=n_seen(end, capacity),
            columns=self._columns_seen(end, capacity),
            n_new=n_new,
            window=window if self._slots > window else None,
            kv_bits=self.kv_bits,
            is_padded=self.left_padding is not None,
        )

    def _columns_seen(self, end: int, capacity: int) -> Literal["all", "in order", "around"]:
        if self._slots > self._window:
            return "around"
        if end < capacity:
            return "in order"
        sees_padding = max(self.left_padding or (0,)) > end - self._window
        return "around" if sees_padding else "all"

    def _room_for(self, end: int) -> int:
        return max(self.capacity, min(round_up(end), self._slots))

    def _anew(self, kv_bits: int) -> RotatingCache:
        other = RotatingCache(self._window, left_padding=self.left_padding, kv_bits=kv_bits)
        other.allow_trim(self._slots - self._window)
        return other

    def _restore(self, snapshot: Snapshot) -> None:
        self.offset = snapshot.offset
        _, self._slots, self._oldest, self.state = snapshot.data

    def _rewind(self, offset: int) -> None:
        self.offset = offset
        self._oldest = min(self._oldest, offset)

    def held(self) -> tuple[mx.array, ...]:
        """At most W tokens; W - 1 where the last one has been taken back."""
        rows = self._last(min(self.offset - self._oldest, self._window))
        return () if rows is None else parts_of(rows[0]) + parts_of(rows[1])

    def load(self, held: tuple[mx.array, ...], offset: int) -> None:
        super().load(held, offset)
        self._oldest = offset
        if held:
            self._refill(*self._leading(self.capacity))

    def _fits_in_place(self, n_new: int) -> bool:
        """Whether writing so many tokens leaves all keys in the ring that they see."""
        return n_new <= self._slots - self._window + 1

    def _store(self, keys: Rows, values: Rows) -> None:
        """Writes at most as many tokens as there are slots, around the end of the ring."""
        n, slots = n_slots(keys), self._slots
        end = self.offset + n
        if self.capacity < slots:
            self._reserve(min(round_up(end), slots), keys, values)
        slot = self.offset % slots
        before_end = min(n, slots - slot)
        self._write(slot, cut(keys, 0, before_end), cut(values, 0, before_end))
        if before_end < n:
            self._write(0, cut(keys, before_end, n), cut(values, before_end, n))
        self.offset = end
        self._oldest = max(self._oldest, end - slots)

    def _refill(self, keys: Rows, values: Rows) -> None:
        """A new ring that holds these last tokens alone."""
        self.keys, self.values = None, None
        self._oldest = oldest = self.offset - n_slots(keys)
        self.offset = oldest
        self._store(keys, values)
        self._oldest = oldest

    def _past(self) -> tuple[Rows, Rows] | None:
        """Up to W - 1 last keys and values in the order of the text."""
        return self._last(min(self.offset, self._window - 1))

    def _last(self, n: int) -> tuple[Rows, Rows] | None:
        if n == 0 or self.keys is None or self.values is None:
            return None
        first = (self.offset - n) % self._slots
        return unroll(self.keys, first, n), unroll(self.values, first, n)

    def _columns_in_ring(self, end: int) -> mx.array:
        """Which column each visible slot holds once the tokens before `end` are written."""
        slots = np.arange(min(end, self._slots))
        return mx.array(end - 1 - (end - 1 - slots) % self._slots)
