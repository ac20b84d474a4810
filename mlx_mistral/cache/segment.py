"""Stretches of a text's keys and values: cut out, joined again."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import mlx.core as mx

from .base import KVCache


def can_be_cut(layers: Sequence[KVCache]) -> bool:
    """Whether every key of the text is still in place; a ring that has wrapped has lost some."""
    return all(map(has_all, layers))


def has_all(one: KVCache) -> bool:
    """Whether a layer has the key of every token, in the order of the text."""
    return one.window is None or (one.is_trimmable() and one.offset <= one.window)


def cut(layers: Sequence[KVCache], start: int, end: int) -> list[KVCache]:
    """Caches of the tokens from `start` to `end` alone, as views of `layers`."""
    return [_cut(one, start, end) for one in layers]


def join(segments: Sequence[Sequence[KVCache]], layers: Sequence[KVCache]) -> None:
    """Fills new caches with segments in the order of the text, and empties those.

    Layer by layer, so that hardly more memory is held than either takes.
    """
    offset = sum(segment[0].offset for segment in segments)
    for one, *parts in zip(layers, *segments, strict=True):
        states = zip(*(part.state for part in parts), strict=True)
        buffers = tuple(mx.concatenate(list(pieces), axis=2) for pieces in states)
        mx.eval(buffers)
        one.load(buffers, offset)
        for part in parts:
            part.state = ()


def _cut(cache: KVCache, start: int, end: int) -> KVCache:
    part = copy.copy(cache)
    part.state = tuple(buffer[..., start:end, :] for buffer in cache.state)
    part.offset = end - start
    return part
