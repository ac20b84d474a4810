"""Caches as a compiled pass sees them: buffers of fixed shape, a place that is an array.

A pass over them is traced once and then repeated, token after token, until a buffer grows or
a ring is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import mlx.core as mx

from .quantized import Rows, quantize
from .rows import each, from_parts, leading, parts_of

STEP = 256
"""Buffers grow by this many tokens, so that shapes stay the same for as many steps."""
SHORT_STEP = 64
"""The same for what attention looks at in short texts: hidden columns cost time too."""


class Form(NamedTuple):
    """What a trace depends on.

    ring: the slots of a ring; None: the buffer holds the text in order.
    seen: attention looks at so many of the first slots.
    columns: all of these slots are visible, or those up to the token itself, which hold the text
        in order, or those whose columns, found from the end of a ring, are neither hidden by the
        window nor padding.
    n_new: tokens that are stored together. window: what a ring of more slots hides the rest of.
    is_padded: whether rows of the batch begin at columns of their own.
    """

    ring: int | None
    capacity: int
    seen: int
    columns: Literal["all", "in order", "around"]
    n_new: int = 1
    window: int | None = None
    kv_bits: int | None = None
    is_padded: bool = False


def n_seen(end: int, capacity: int) -> int:
    """The slots that attention looks at where the tokens before `end` are stored in order."""
    return min(round_up(end, SHORT_STEP if end <= STEP else STEP), capacity)


def round_up(n: int, step: int = STEP) -> int:
    return -(-n // step) * step


class FixedCache:
    """Stands for a cache while a pass is traced, and is one by its calls."""

    left_padding = None

    def __init__(self, state: tuple[mx.array, ...], place: Place) -> None:
        half = len(state) // 2
        keys, values = from_parts(state[:half]), from_parts(state[half:])
        assert keys is not None
        assert values is not None
        self._keys, self._values, self._place = keys, values, place

    @property
    def state(self) -> tuple[mx.array, ...]:
        """As of a cache."""
        return parts_of(self._keys) + parts_of(self._values)

    @property
    def position(self) -> mx.array:
        return self._place.position

    def make_mask(self, n_new: int) -> mx.array | None:
        return self._place.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Rows, Rows]:
        """Shapes: (B, K, T, D) twice -> (B, K, seen, D) twice."""
        self._keys = self._place.write(self._keys, keys)
        self._values = self._place.write(self._values, values)
        seen = self._place.seen
        return leading(self._keys, seen), leading(self._values, seen)


class Place:
    """Where new tokens go in all caches of one form, and what they see there."""

    def __init__(self, offset: mx.array, form: Form, left_padding: mx.array | None) -> None:
        """Shapes: offset (), left_padding (B,)."""
        self._offset, self._form = offset, form
        self._left_padding = left_padding if form.is_padded else None
        self.position = offset if self._left_padding is None else offset - self._left_padding
        self.seen = form.seen
        slots = offset[None] if form.n_new == 1 else offset + mx.arange(form.n_new)
        self._slots = slots if form.ring is None else slots % form.ring
        self.mask = None if form.columns == "all" else self._visible()

    def write(self, buffer: Rows, rows: mx.array) -> Rows:
        """Shapes: (B, K, capacity, D), (B, K, T, D) -> (B, K, capacity, D)."""
        bits = self._form.kv_bits
        return each(self._write, buffer, rows if bits is None else quantize(rows, bits))

    def _write(self, buffer: mx.array, rows: mx.array) -> mx.array:
        if self._form.n_new == 1 or self._form.ring is None:
            return mx.slice_update(buffer, rows, self._slots[:1], axes=(2,))
        buffer[:, :, self._slots] = rows  # around the end of the ring
        return buffer

    def _visible(self) -> mx.array:
        """Shapes: -> (T, seen), or (B, 1, T, seen) of a padded batch."""
        form, columns = self._form, mx.arange(self._form.seen)
        queries = self._offset + mx.arange(form.n_new)[:, None]
        if form.columns == "around":
            assert form.ring is not None
            last = self._offset + form.n_new - 1
            columns = last - (last - columns) % form.ring  # below 0: nothing was written yet
        seen = columns <= queries
        if form.columns == "around":
            seen &= columns >= 0
        if form.window is not None:
            seen &= columns > queries - form.window
        if self._left_padding is None:
            return seen
        return (seen & (columns >= self._left_padding[:, None, None]))[:, None]


def stand_ins(
    forms: Sequence[Form],
    buffers: Sequence[mx.array],
    offset: mx.array,
    left_padding: mx.array | None = None,
) -> list[FixedCache]:
    """One for each layer; buffers are their states, one after the other."""
    places = {form: Place(offset, form, left_padding) for form in set(forms)}
    n = len(buffers) // len(forms)
    states = [tuple(buffers[i : i + n]) for i in range(0, len(buffers), n)]
    return [FixedCache(state, places[form]) for form, state in zip(forms, states, strict=True)]
