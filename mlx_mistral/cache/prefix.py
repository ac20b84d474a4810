"""A model's caches with the token ids they hold: a text that begins alike is not read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .base import KVCache, Snapshot
from .stretch import Stretch


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Snapshots of all layers after the tokens of a text, and the bytes that they keep alive."""

    ids: list[int]
    snapshots: list[Snapshot]
    nbytes: int


class PrefixCache:
    """Caches, the ids whose keys they hold, and places to go back to past a wrap.

    Layers without a window go back to any token. A ring that has wrapped does not, so places
    are kept on the way: a few that lie close behind the end, fewer far from it.

    max_places: how many at most, and of as many bytes as `max_place_bytes` allows; two are
        kept whatever they take. Each holds a full window of every windowed layer.
    """

    def __init__(
        self, layers: list[KVCache], *, max_places: int = 2, max_place_bytes: int | None = None
    ) -> None:
        self.layers = layers
        self.ids: list[int] = []
        self.at_rest: Stretch | None = None
        """Where keys and values are while nobody goes on with the text; see `SharedPrefixes`."""
        self.stem = 0
        """How many tokens other texts will begin with too: the place after them is kept."""
        self._max_places = max_places
        self._max_place_bytes = max_place_bytes
        self._places: list[Place] = []
        """In the order in which they were kept, those that were gone back to last."""

    @property
    def nbytes(self) -> int:
        """Bytes held by the caches; places come on top."""
        return sum(layer.nbytes for layer in self.layers)

    @property
    def n_places(self) -> int:
        return len(self._places)

    def is_longer_than_a_window(self, n_tokens: int) -> bool:
        """Whether some ring wraps in a text of so many tokens."""
        windows = (one.window for one in self.layers)
        return any(window is not None and n_tokens > window for window in windows)

    def until_stem(self, wanted: int) -> int:
        """Tokens to read next, so that reading pauses where the stem ends."""
        left = self.stem - self.layers[0].offset
        return min(wanted, left) if left > 0 else wanted

    def begin(self, ids: Sequence[int]) -> int:
        """Makes the caches hold a beginning of a text, all but its last token at most.

        Returns how many tokens that is; the caller feeds the rest.
        """
        reused = self._rewind_to_prefix_of(ids)
        self.ids = list(ids)
        return reused

    def reusable(self, ids: Sequence[int]) -> int:
        """How many tokens `begin` would find of a text. Changes nothing."""
        most = min(common_prefix(self.ids, ids), len(ids) - 1)
        if all(one.can_trim(one.offset - most) for one in self.layers):
            return most
        place = self.place_for(ids)
        return len(place.ids) if place else 0

    def place_for(self, ids: Sequence[int]) -> Place | None:
        """The latest place that a text passes through and goes on from."""
        places = [
            each
            for each in self._places
            if self._is_reachable(each)
            and len(each.ids) < len(ids)
            and each.ids == list(ids[: len(each.ids)])
        ]
        return max(places, key=lambda each: len(each.ids), default=None)

    def keep_place(self) -> None:
        """Remembers this moment, if going back to it could need that."""
        held = self.layers[0].offset
        if not held or all(one.window is None for one in self.layers):
            return
        ids = self.ids[:held]
        nbytes = sum(one.nbytes for one in self.layers if one.window is not None)
        self._places = [
            place for place in self._places if place.ids != ids and self._is_reachable(place)
        ]
        while (others := self._but_stem()) and self._is_full(nbytes):
            self._places.remove(min(others, key=lambda place: self._worth(place, held)))
        self._places.append(Place(ids, [one.snapshot() for one in self.layers], nbytes))

    def at_stem(self, new: list[KVCache]) -> list[KVCache] | None:
        """Fills new caches with the stem's tokens; None: the place after them was not kept."""
        places = (one for one in self._places if len(one.ids) == self.stem)
        place = next((one for one in places if self._is_reachable(one)), None)
        if place is None:
            return None
        for one, layer, snapshot in zip(new, self.layers, place.snapshots, strict=True):
            if one.window is None:
                one.load(tuple(rows[..., : self.stem, :] for rows in layer.state), self.stem)
            else:
                one.restore(snapshot)
        return new

    def forget_places(self) -> None:
        """Frees the memory of all places to go back to; the caches stay."""
        self._places.clear()

    def forget(self) -> None:
        """Frees all that was read; the next text is read from its start."""
        self._places.clear()
        self.ids, self.at_rest = [], None
        for one in self.layers:
            one.state = ()
            one.trim(one.offset)

    def settle(self) -> None:
        """Drops the ids that were drawn but not yet fed."""
        del self.ids[self.layers[0].offset :]

    def _rewind_to_prefix_of(self, ids: Sequence[int]) -> int:
        common = min(common_prefix(self.ids, ids), len(ids) - 1)
        if self._trim_to(common):
            return common
        for place in sorted(self._places, key=lambda place: -len(place.ids)):
            held = len(place.ids)
            if place.ids == list(ids[:held]) and self._restore(place):
                common = min(held, len(ids) - 1)
                if self._trim_to(common):
                    self._places.remove(place)
                    self._places.append(place)
                    return common
        self._trim_to(0)
        return 0

    def _but_stem(self) -> list[Place]:
        return [place for place in self._places if len(place.ids) != self.stem]

    def _is_full(self, nbytes: int) -> bool:
        """Whether one more place of so many bytes asks for another's room."""
        n = len(self._but_stem())
        if n < 2 <= self._max_places:
            return False
        total = sum(place.nbytes for place in self._places) + nbytes
        too_large = self._max_place_bytes is not None and total > self._max_place_bytes
        return n >= self._max_places or too_large

    def _worth(self, place: Place, end: int) -> float:
        """Tokens between its neighbours, the more so the closer it lies to the end."""
        lengths = [len(one.ids) for one in self._places]
        here = len(place.ids)
        before = max((n for n in lengths if n < here), default=0)
        after = min((n for n in [*lengths, end] if n > here), default=here)
        return (after - before) / (abs(end - here) + 1)

    def _is_reachable(self, place: Place) -> bool:
        return all(
            one.can_restore(snapshot)
            for one, snapshot in zip(self.layers, place.snapshots, strict=True)
        )

    def _trim_to(self, length: int) -> bool:
        surplus = self.layers[0].offset - length
        if not all(one.can_trim(surplus) for one in self.layers):
            return False
        for one in self.layers:
            one.trim(surplus)
        return True

    def _restore(self, place: Place) -> bool:
        if not self._is_reachable(place):
            return False
        for one, snapshot in zip(self.layers, place.snapshots, strict=True):
            one.restore(snapshot)
        return True


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two texts begin with alike."""
    same, step = 0, 1 << 10
    most = min(len(a), len(b))
    while same < most and list(a[same : same + step]) == list(b[same : same + step]):
        same += step
    rest = zip(a[same : same + step], b[same : same + step], strict=False)
    return min(most, same + next((n for n, (x, y) in enumerate(rest) if x != y), step))
