"""What the two kinds of cache share: fixed-capacity buffers, an offset, padding, snapshots."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_mistral.errors import CacheError

from .fixed import Form
from .mask import Mask, padded_mask
from .quantized import QuantizedRows, Rows, check_bits, quantize
from .rows import extend, from_parts, leading, n_slots, parts_of, write


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
    kv_bits: of a stored number; None: as wide as what is stored. Every token reads its own
    key as it will be stored, so that the text does not depend on how it was cut.
    Raises: CacheError: there are no caches of so many bits.
    """

    def __init__(
        self, left_padding: Sequence[int] | None = None, kv_bits: int | None = None
    ) -> None:
        if kv_bits is not None:
            check_bits(kv_bits)
        self.keys: Rows | None = None
        self.values: Rows | None = None
        self.offset = 0
        self.left_padding = tuple(left_padding) if left_padding and any(left_padding) else None
        self.kv_bits = kv_bits

    @abstractmethod
    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Rows, Rows]:
        """Stores T new keys and values; returns all that the T new tokens may see.

        Shapes: (B, K, T, D) twice -> (B, K, S, D) twice.
        Raises: CacheError: they cannot be quantized, for their heads are of an odd size.
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

    @abstractmethod
    def _form_of_next(self, n_new: int) -> Form | None:
        """The form that `make_room` makes."""

    @abstractmethod
    def _room_for(self, end: int) -> int:
        """The capacity of a buffer that holds a text of so many tokens; no less than there is."""

    @abstractmethod
    def _anew(self, kv_bits: int) -> KVCache:
        """An empty cache like this one, of other bits."""

    def to_quantized(self, group_size: int = 64, bits: int = 8) -> KVCache:
        """A quantized cache of the same tokens; this one, if it is quantized so already.

        Snapshots are each cache's own.
        group_size: for mlx-lm's call shape; the heads decide.
        Raises: CacheError: this one has fewer bits, or the heads or bits are not to be had.
        """
        if self.kv_bits == bits:
            return self
        if self.kv_bits is not None and self.kv_bits < bits:
            raise CacheError(f"the cache has {self.kv_bits} bits already; start anew for {bits}")
        other = self._anew(bits)
        if self.offset:
            parts = (other._stored(one) for one in self._widened())
            other.load(tuple(part for rows in parts for part in parts_of(rows)), self.offset)
        return other

    def _widened(self) -> Iterator[mx.array]:
        """What is held of keys and of values, dequantized. Shapes: (B, K, n, D) each."""
        held = self.held()
        half = len(held) // 2
        for rows in (from_parts(held[:half]), from_parts(held[half:])):
            if isinstance(rows, QuantizedRows):
                head_dim = 32 * rows.weight.shape[-1] // (self.kv_bits or 32)
                yield rows.dequantize(head_dim, rows.scales.dtype)
            elif rows is not None:
                yield rows

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
        return 0 if self.keys is None else n_slots(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffers."""
        return sum(buffer.nbytes for buffer in self.state)

    @property
    def state(self) -> tuple[mx.array, ...]:
        """The buffers, for `mx.eval` and for saving, in the order of `state_names`."""
        return parts_of(self.keys) + parts_of(self.values)

    @state.setter
    def state(self, buffers: tuple[mx.array, ...]) -> None:
        half = len(buffers) // 2
        self.keys, self.values = from_parts(buffers[:half]), from_parts(buffers[half:])

    @property
    def state_names(self) -> tuple[str, ...]:
        """What each buffer of the state is, all of shape (B, K, capacity, any)."""
        parts = ("",) if self.kv_bits is None else (".weight", ".scales", ".biases")
        return tuple(kind + part for kind in ("keys", "values") for part in parts)

    def held(self) -> tuple[mx.array, ...]:
        """What later tokens may need of the state, in the order of the text."""
        return tuple(buffer[..., : self.offset, :] for buffer in self.state)

    def load(self, held: tuple[mx.array, ...], offset: int) -> None:
        """Takes over what a cache of the same kind held after `offset` tokens."""
        self.state = held
        self.offset = offset

    def make_room(self, n_new: int = 1) -> Form | None:
        """Makes room for tokens, and says in which form it is.

        None: `update_and_fetch` alone can store them. So it is in a cache that is empty, at the end
        of a context, within the padding of a batch, and for more than one token in a ring that
        `allow_trim` has given no room for as many.
        """
        if self.keys is None or self.values is None:
            return None
        if self.left_padding is not None and self.offset < max(self.left_padding):
            return None
        form = self._form_of_next(n_new)
        if form is not None:
            self._reserve(form.capacity, self.keys, self.values)
        return form

    def reserve(self, n_new: int) -> bool:
        """Makes room for tokens that will be stored; whether that made the buffers grow.

        A cache in which nothing has been stored yet does not know of what shape, and stays empty.
        """
        before = self.capacity
        if self.keys is not None and self.values is not None:
            self._reserve(self._room_for(self.offset + n_new), self.keys, self.values)
        return self.capacity > before

    def advance(self, state: tuple[mx.array, ...], n_new: int = 1) -> None:
        """Takes over buffers to which tokens were added at the place that `make_room` made."""
        self.state = state
        self.offset += n_new

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

    def _stored(self, rows: mx.array) -> Rows:
        """Keys or values as the buffers hold them."""
        return rows if self.kv_bits is None else quantize(rows, self.kv_bits)

    def _reserve(self, capacity: int, keys: Rows, values: Rows) -> None:
        """Makes room for `capacity` tokens of the shape and type of the given ones."""
        missing = capacity - self.capacity
        if missing > 0:
            self.keys = extend(self.keys, missing, keys)
            self.values = extend(self.values, missing, values)

    def _leading(self, n: int) -> tuple[Rows, Rows]:
        """The keys and values of the first n slots."""
        assert self.keys is not None
        assert self.values is not None
        return leading(self.keys, n), leading(self.values, n)

    def _write(self, slot: int, keys: Rows, values: Rows) -> None:
        assert self.keys is not None
        assert self.values is not None
        self.keys = write(self.keys, slot, keys)
        self.values = write(self.values, slot, values)
