"""Rows of keys or values, one a token, as they are or quantized: cut, joined and written alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import overload

import mlx.core as mx

from .quantized import QuantizedRows, Rows


def leading(rows: Rows, n: int) -> Rows:
    """The first n rows. Quantized ones stay in their buffer: cutting them out may copy."""
    return rows._replace(n=n) if isinstance(rows, QuantizedRows) else rows[..., :n, :]


def cut(rows: Rows, start: int, stop: int) -> Rows:
    return each(lambda part: part[..., start:stop, :], rows)


def join(first: Rows, then: Rows) -> Rows:
    return each(lambda *parts: mx.concatenate(list(parts), axis=2), first, then)


def unroll(ring: Rows, first: int, n: int) -> Rows:
    """n slots from `first` on, around the end of the ring."""
    end = n_slots(ring)
    if first + n <= end:
        return cut(ring, first, first + n)
    return join(cut(ring, first, end), cut(ring, 0, first + n - end))


def extend(buffer: Rows | None, n: int, like: Rows) -> Rows:
    """Zeros, never garbage: a NaN in a value that is masked out would still spread."""

    def zeros(part: mx.array) -> mx.array:
        batch, heads, _, width = part.shape
        return mx.zeros((batch, heads, n, width), part.dtype)

    room = each(zeros, like)
    return room if buffer is None else join(buffer, room)


def write(buffer: Rows, slot: int, rows: Rows) -> Rows:
    """In place, where nothing else holds the buffer."""
    start = mx.array([slot])
    return each(lambda old, new: mx.slice_update(old, new, start, axes=(2,)), buffer, rows)


def n_slots(buffer: Rows) -> int:
    part = buffer.weight if isinstance(buffer, QuantizedRows) else buffer
    return part.shape[2]


def parts_of(rows: Rows | None) -> tuple[mx.array, ...]:
    if rows is None:
        return ()
    return rows[:3] if isinstance(rows, QuantizedRows) else (rows,)


def from_parts(parts: tuple[mx.array, ...]) -> Rows | None:
    """The buffer of `parts_of`."""
    if len(parts) == 3:
        return QuantizedRows(*parts, parts[0].shape[2])
    return parts[0] if parts else None


@overload
def each(f: Callable[..., mx.array], *rows: mx.array) -> mx.array: ...
@overload
def each(f: Callable[..., mx.array], *rows: Rows) -> Rows: ...
def each(f: Callable[..., mx.array], *rows: Rows) -> Rows:
    """A function along the axis of tokens, of every part of rows of one kind."""
    done = from_parts(tuple(f(*parts) for parts in zip(*map(parts_of, rows), strict=True)))
    assert done is not None
    return done
