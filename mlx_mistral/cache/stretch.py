"""Keys and values of a stretch of a text, held once for all texts that have it in common."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from .base import KVCache, Snapshot
from .segment import has_all

Buffers = tuple[mx.array, ...]


class Stretch:
    """What the tokens from `start` to `end` left in the caches; before it comes `base`.

    A text at rest is the last of its stretches. Nobody writes to their arrays, so that texts
    which begin alike have the same stretches up to where they part.
    Of a ring that has wrapped, what is there at the end is held: such a stretch is not split.
    """

    def __init__(
        self, start: int, end: int, base: Stretch | None, layers: list[Buffers | Snapshot]
    ) -> None:
        self.start, self.end, self.base = start, end, base
        self._layers = layers

    @property
    def nbytes(self) -> int:
        """Bytes of its own arrays."""
        held = [one.data[-1] if isinstance(one, Snapshot) else one for one in self._layers]
        return sum(buffer.nbytes for buffers in held for buffer in buffers)

    @property
    def is_whole(self) -> bool:
        """Whether the text can be gone on with from its end alone."""
        return any(isinstance(one, Snapshot) for one in self._layers)

    def chain(self) -> list[Stretch]:
        """The stretches of the text up to this one, the first one first."""
        found = [self]
        while (base := found[0].base) is not None:
            found.insert(0, base)
        return found

    def upto(self, n: int) -> Stretch | None:
        """The text's stretch that ends after n tokens, split off where there is none.

        None or one that ends earlier: a ring does not let it be split there.
        """
        one: Stretch | None = self
        while one is not None and one.start >= n:
            one = one.base
        if one is None or one.end <= n:
            return one
        return one.base if one.is_whole else one._split(n)

    def _split(self, n: int) -> Stretch:
        """Layer by layer, so that hardly more is held meanwhile."""
        at = n - self.start
        front: list[Buffers | Snapshot] = []
        for i, buffers in enumerate(self._layers):
            assert not isinstance(buffers, Snapshot)
            parts = tuple(map(mx.contiguous, (buffer[..., :at, :] for buffer in buffers)))
            rest = tuple(map(mx.contiguous, (buffer[..., at:, :] for buffer in buffers)))
            mx.eval(parts, rest)
            front.append(parts)
            self._layers[i] = rest
        self.base = Stretch(self.start, n, self.base, front)
        self.start = n
        return self.base

    def _upto(self, n: int, i: int) -> Buffers:
        """Of layer i, up to the text's token n."""
        buffers = self._layers[i]
        assert not isinstance(buffers, Snapshot)
        return tuple(buffer[..., : n - self.start, :] for buffer in buffers)

    def fill(
        self, layers: Sequence[KVCache], n: int, rings: Sequence[Snapshot] | None = None
    ) -> None:
        """Puts the first n tokens of the text into caches that hold nothing.

        rings: what layers with a window held after n tokens; without, a stretch that is whole
            gives all of its text.
        """
        parts = [one for one in self.chain() if one.start < n]
        for i, layer in enumerate(layers):
            last = parts[-1]._layers[i]
            if rings is not None and layer.window is not None:
                layer.restore(rings[i])
            elif isinstance(last, Snapshot):
                layer.restore(last)
            else:
                pieces = zip(*(one._upto(n, i) for one in parts), strict=True)
                layer.load(tuple(mx.concatenate(list(each), axis=2) for each in pieces), n)
            mx.eval(layer.state)


def put_by(layers: Sequence[KVCache], base: Stretch | None) -> Stretch:
    """Takes out of caches what they hold beyond `base`; their buffers are freed."""
    start, end = base.end if base else 0, layers[0].offset
    held: list[Buffers | Snapshot] = []
    for layer in layers:
        if has_all(layer):
            views = (buffer[..., start:end, :] for buffer in layer.state)
            parts = tuple(map(mx.contiguous, views))
            mx.eval(parts)
            held.append(parts)
        else:
            held.append(layer.snapshot())
        layer.state = ()
    return Stretch(start, end, base, held)
