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
    """

    ring: int | None
    capacity: int
    seen: int
    full: bool


def form(end: int, capacity: int, ring: int | None = None) -> Form:
    """The form of a cache in which `end` tokens will have been stored."""
    seen = min(round_up(end, SHORT_STEP if end <= STEP else STEP), capacity)
    return Form(ring, capacity, seen, ring is not None and end >= capacity)


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
        """Shapes: (B, K, 1, D) twice -> (B, K, seen, D) twice."""
        slot = self._place.slot
        self.keys = mx.slice_update(self.keys, keys, slot, axes=(2,))
        self.values = mx.slice_update(self.values, values, slot, axes=(2,))
        seen = self._place.seen
        return self.keys[..., :seen, :], self.values[..., :seen, :]


class Place:
    """Where the new token goes in all caches of one form, and what it sees there."""

    def __init__(self, position: mx.array, form: Form) -> None:
        """Shapes: position ()."""
        self.position = position
        slot = position if form.ring is None else position % form.ring
        self.slot = slot[None]
        self.seen = form.seen
        self.mask = None if form.full else (mx.arange(form.seen) <= position)[None]  # (1, seen)


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
