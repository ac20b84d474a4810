"""Caches as a compiled step sees them: buffers of fixed shape, a place that is an array.

A step over them is traced once and then repeated, token after token, until a buffer grows or
a ring is full.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mlx.core as mx

STEP = 256
"""Buffers grow by this many tokens, so that shapes stay the same for as many steps."""
SHORT_STEP = 64
"""The same for what attention looks at in short texts: hidden columns cost time too."""


class Form(NamedTuple):
    """What a trace depends on.

    ring: the slots of a ring; None: the buffer holds the text in order.
    seen: attention looks at so many of the first slots; full: all of them are visible.
    n_new: tokens that are stored together. window: what a ring of more slots hides the rest of.
    """

    ring: int | None
    capacity: int
    seen: int
    full: bool
    n_new: int = 1
    window: int | None = None


def form(
    end: int,
    capacity: int,
    ring: int | None = None,
    *,
    n_new: int = 1,
    window: int | None = None,
) -> Form:
    """The form of a cache in which `end` tokens will have been stored, the last n_new at once."""
    seen = min(round_up(end, SHORT_STEP if end <= STEP else STEP), capacity)
    full = ring is not None and window is None and end >= capacity
    return Form(ring, capacity, seen, full, n_new, window)


def round_up(n: int, step: int = STEP) -> int:
    return -(-n // step) * step


class FixedCache:
    """Stands for a cache while a step of one new token is traced, and is one by its calls."""

    left_padding = None

    def __init__(self, keys: mx.array, values: mx.array, place: Place) -> None:
        self.keys, self.values = keys, values
        self._place = place

    @property
    def position(self) -> mx.array:
        return self._place.position

    def make_mask(self, n_new: int) -> mx.array | None:
        return self._place.mask

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Shapes: (B, K, T, D) twice -> (B, K, seen, D) twice."""
        self.keys = self._place.write(self.keys, keys)
        self.values = self._place.write(self.values, values)
        seen = self._place.seen
        return self.keys[..., :seen, :], self.values[..., :seen, :]


class Place:
    """Where new tokens go in all caches of one form, and what they see there."""

    def __init__(self, position: mx.array, form: Form) -> None:
        """Shapes: position ()."""
        self.position = position
        self.seen = form.seen
        self._form = form
        slots = position[None] if form.n_new == 1 else position + mx.arange(form.n_new)
        self._slots = slots if form.ring is None else slots % form.ring
        self.mask = None if form.full else self._visible()

    def write(self, buffer: mx.array, rows: mx.array) -> mx.array:
        """Shapes: (B, K, capacity, D), (B, K, T, D) -> (B, K, capacity, D)."""
        if self._form.n_new == 1 or self._form.ring is None:
            return mx.slice_update(buffer, rows, self._slots[:1], axes=(2,))
        buffer[:, :, self._slots] = rows  # around the end of the ring
        return buffer

    def _visible(self) -> mx.array:
        """Shapes: -> (T, seen)."""
        form, columns = self._form, mx.arange(self._form.seen)
        queries = self.position + mx.arange(form.n_new)[:, None]
        if form.window is None or form.ring is None:
            return columns <= queries
        last = self.position + form.n_new - 1
        columns = last - (last - columns) % form.ring  # below 0 where nothing was written yet
        return (columns <= queries) & (columns > queries - form.window) & (columns >= 0)


def stand_ins(
    forms: Sequence[Form], buffers: Sequence[mx.array], position: mx.array
) -> list[FixedCache]:
    """One for each layer; buffers are its keys and its values, layer after layer."""
    places = {form: Place(position, form) for form in set(forms)}
    pairs = zip(buffers[::2], buffers[1::2], strict=True)
    return [
        FixedCache(keys, values, places[form])
        for form, (keys, values) in zip(forms, pairs, strict=True)
    ]
