"""What the two kinds of cache share: fixed-capacity buffers, an offset, padding, snapshots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_mistral.errors import CacheError

from .mask import Mask, padded_mask

STEP = 256
"""Buffers grow by this many tokens, so that shapes stay the same for as many steps."""


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """A cache at one moment. It stays valid while the cache moves on."""

    owner: type
    offset: int
    data: Any


class KVCache(ABC):
    """Keys and values of one layer.

    Buffers have shape (B, K, capacity, D) and are written by `mx.slice_update` at a
    position that is an array, so a step over them can be compiled once.

    left_padding: for a batch of uneven prompts, how many tokens before each row's first
    are padding. Columns then count from the padded start, positions from the first token.
    """

    def __init__(self, left_padding: Sequence[int] | None = None) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self.offset = 0
        self.left_padding = tuple(left_padding) if left_padding and any(left_padding) else None

    @abstractmethod
    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Stores T new keys and values; returns all that the T new tokens may see.

        Shapes: (B, K, T, D) twice -> (B, K, S, D) twice.
        """

    @abstractmethod
    def make_mask(
        self, n_new: int, window_size: int | None = None, return_array: bool = False
    ) -> Mask:
        """The mask for the next n_new tokens; ask before `update_and_fetch`.

        The cache knows its own window; `window_size` is accepted for mlx-lm's call shape.
        """

    @abstractmethod
    def can_trim(self, n: int) -> bool:
        """Whether the last n tokens can be forgotten with every earlier key still in place."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """This moment, to `restore` later. Costs nothing until the next write."""

    @abstractmethod
    def can_restore(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot is of this cache and its keys are still to be had."""

    @abstractmethod
    def _restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot that can be restored."""

    @property
    def position(self) -> mx.array:
        """The position of the next token as an array: (), or (B,) for a padded batch."""
        if self.left_padding is None:
            return mx.array(self.offset)
        return self.offset - mx.array(self.left_padding)

    @property
    def limit(self) -> int | None:
        """The number of tokens after which the cache refuses more; None: never."""
        return None

    @property
    def window(self) -> int | None:
        """How many keys a token sees; None: all."""
        return None

    @property
    def capacity(self) -> int:
        """Tokens for which memory is held now."""
        return 0 if self.keys is None else self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffers."""
        if self.keys is None or self.values is None:
            return 0
        return self.keys.nbytes + self.values.nbytes

    @property
    def state(self) -> tuple[mx.array, mx.array] | tuple[()]:
        """The buffers, for `mx.eval` and for saving."""
        if self.keys is None or self.values is None:
            return ()
        return self.keys, self.values

    @state.setter
    def state(self, buffers: tuple[mx.array, mx.array] | tuple[()]) -> None:
        self.keys, self.values = buffers or (None, None)

    def load(self, buffers: tuple[mx.array, mx.array], offset: int) -> None:
        """Takes over the buffers of a saved cache of the same kind and shape."""
        self.state = buffers
        self.offset = offset

    def empty(self) -> bool:
        return self.offset == 0

    def size(self) -> int:
        """Tokens whose keys are held."""
        return min(self.offset, self.capacity)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot.

        Raises: CacheError: it is of another cache, or text before its end was rewritten.
        """
        if not self.can_restore(snapshot):
            raise CacheError(
                f"the snapshot at {snapshot.offset} tokens is of another cache, or its text has "
                "been rewritten; trim to the common prefix instead"
            )
        self._restore(snapshot)

    def allow_trim(self, n: int) -> None:  # noqa: B027
        """Makes sure that the last n tokens written from now on can always be trimmed."""

    def is_trimmable(self) -> bool:
        """Whether any number of tokens can be trimmed."""
        return True

    def trim(self, n: int) -> int:
        """Forgets the last n tokens; returns how many that was.

        Raises: CacheError: keys that the tokens before them need are gone.
        """
        n = min(n, self.offset)
        if not self.can_trim(n):
            raise CacheError(
                f"cannot go back {n} tokens: the window has passed over keys that are needed "
                "again; restore a snapshot or start anew"
            )
        self._rewind(self.offset - n)
        return n

    def _rewind(self, offset: int) -> None:
        self.offset = offset

    def _mask_padding(self, queries: mx.array, keys: mx.array, window: int | None) -> mx.array:
        return padded_mask(queries, keys, mx.array(self.left_padding or (0,)), window)

    def _reserve(self, capacity: int, keys: mx.array, values: mx.array) -> None:
        """Makes room for `capacity` tokens of the shape and type of the given ones."""
        missing = capacity - self.capacity
        if missing > 0:
            self.keys = _extend(self.keys, missing, keys)
            self.values = _extend(self.values, missing, values)

    def _write(self, slot: int, keys: mx.array, values: mx.array) -> None:
        assert self.keys is not None
        assert self.values is not None
        start = mx.array([slot])
        self.keys = mx.slice_update(self.keys, keys, start, axes=(2,))
        self.values = mx.slice_update(self.values, values, start, axes=(2,))


def _extend(buffer: mx.array | None, n: int, like: mx.array) -> mx.array:
    """Zeros, never garbage: a NaN in a value that is masked out would still spread."""
    batch, heads, _, dim = like.shape
    room = mx.zeros((batch, heads, n, dim), like.dtype)
    return room if buffer is None else mx.concatenate([buffer, room], axis=2)


def round_up(n: int, step: int = STEP) -> int:
    return -(-n // step) * step
