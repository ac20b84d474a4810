"""Texts that one model has read: what they have in common is read once, and held once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence

import mlx.core as mx

from .base import KVCache
from .prefix import PrefixCache, common_prefix
from .segment import can_be_cut, cut
from .stretch import Stretch, put_by

MIN_TOKENS = 64
"""A shorter beginning is read again as quickly as it is shared."""


class SharedPrefixes:
    """The texts of one model that are open, and the one that was gone on with last.

    While a text is gone on with, its keys stand in buffers of its own, as attention wants them.
    A text that another one begins like is put by when it is at rest, in stretches that both
    have; N of them hold their common beginning once. It costs a copy to go on with one.
    What nobody else begins like stays in its buffers. All of it may be read again at any time:
    `release` frees what is at rest where memory runs short.

    Texts are held as long as somebody holds their `PrefixCache`. Each may be gone on with in a
    thread of its own.
    """

    def __init__(self, min_tokens: int = MIN_TOKENS) -> None:
        self._min_tokens = min_tokens
        self._texts: weakref.WeakSet[PrefixCache] = weakref.WeakSet()
        self._busy: weakref.WeakKeyDictionary[PrefixCache, int] = weakref.WeakKeyDictionary()
        """The threads that go on with texts: what they have not computed yet is theirs."""
        self._last: PrefixCache | None = None
        """Held until another text begins, which may go on from what a closed chat has read."""
        self._lock = threading.RLock()

    def add(self, text: PrefixCache) -> None:
        """Lets others go on from a text that has not begun here."""
        with self._lock:
            self._texts.add(text)

    def reusable(self, text: PrefixCache, ids: Sequence[int]) -> int:
        """How many tokens `begin` would find. Changes nothing."""
        with self._lock:
            others = max((self._usable(one, ids) for one in self._alike(text)), default=0)
            own = text.reusable(ids)
            return others if others >= own + self._min_tokens else own

    def begin(
        self, text: PrefixCache, ids: Sequence[int], *, budget_bytes: int | None = None
    ) -> int:
        """Makes a text's caches hold a beginning of these ids, its own or another text's.

        Returns how many tokens that is, all but the last at most. The caller feeds the rest
        and calls `end`.
        budget_bytes: of all memory; where copying would exceed it, other texts are forgotten,
            and in need this one is read anew.
        """
        with self._lock:
            last, self._last = self._last, None
            self._texts.add(text)
            alike = max(self._alike(text), key=lambda one: self._usable(one, ids), default=None)
            gain = self._usable(alike, ids) - text.reusable(ids) if alike else 0
            if alike is not None and gain >= self._min_tokens:
                self._take(text, alike, ids, budget_bytes)
            self.wake(text, budget_bytes=budget_bytes)
            del last, alike
            self._busy[text] = threading.get_ident()
            return text.begin(ids)

    def end(self, text: PrefixCache) -> None:
        """The text is at rest until the next `begin`."""
        try:
            mx.eval([one.state for one in text.layers])
        except RuntimeError:  # a pass that failed was the last one
            text.forget()
        with self._lock:
            self._busy.pop(text, None)
            self._last = text
            alike = [
                one
                for one in self._alike(text)
                if one not in self._busy and _in_common(one, text) >= self._min_tokens
            ]
            for one in (*alike, text) if alike else ():
                self._put_by(one)

    def wake(self, text: PrefixCache, *, budget_bytes: int | None = None) -> None:
        """Puts a text's keys back into buffers of its own."""
        with self._lock:
            if text.at_rest is None:
                return
            stretch, n = text.at_rest, text.layers[0].offset
            if self._has_room(stretch, text, budget_bytes):
                text.at_rest = None
                stretch.fill(text.layers, n)
            else:
                text.forget()

    def release(self) -> int:
        """Forgets every text that is at rest. Returns how many bytes that freed."""
        with self._lock:
            freed, self._last = self.nbytes, None
            self._forget_all_but(None)
            return freed

    @property
    def nbytes(self) -> int:
        """What texts at rest hold."""
        stretches = {
            id(one): one.nbytes
            for text in self._texts
            if text.at_rest
            for one in text.at_rest.chain()
        }
        awake = sum(text.nbytes for text in self._texts if text not in self._busy)
        return awake + sum(stretches.values())

    def _alike(self, text: PrefixCache) -> Iterator[PrefixCache]:
        """Other texts in caches of the same kind."""
        kind = _kind(text.layers)
        return (one for one in self._texts if one is not text and _kind(one.layers) == kind)

    def _usable(self, text: PrefixCache, ids: Sequence[int]) -> int:
        """How many tokens of a text another one could take over."""
        if text not in self._busy:
            return text.reusable(ids)
        is_here = self._busy[text] == threading.get_ident()
        held = text.layers[0].offset if is_here and can_be_cut(text.layers) else 0
        return min(held, common_prefix(text.ids, ids), len(ids) - 1)

    def _take(
        self, text: PrefixCache, other: PrefixCache, ids: Sequence[int], budget_bytes: int | None
    ) -> None:
        """Fills a text's caches with what another one holds of these ids."""
        n, place, said = self._usable(other, ids), other.place_for(ids), list(other.ids)
        if other in self._busy:
            stretch = put_by(cut(other.layers, 0, n), None)
        else:
            self._put_by(other)
            assert other.at_rest is not None
            stretch = other.at_rest
        if not self._has_room(stretch, text, budget_bytes):
            return
        text.forget()
        rings = None
        if stretch.is_whole:
            passed = place is not None and len(place.ids) == n
            rings = place.snapshots if place is not None and passed else None
            n = n if passed else stretch.end
        stretch.fill(text.layers, n, rings)
        text.ids = said[:n]
        text.keep_place()

    def _put_by(self, text: PrefixCache) -> None:
        held = text.layers[0].offset
        if text.at_rest is not None or not held:
            return
        resting = [one for one in self._alike(text) if one.at_rest]
        partner = max(resting, key=lambda one: _in_common(one, text), default=None)
        base = None
        if partner is not None and partner.at_rest is not None:
            common = _in_common(partner, text)
            base = partner.at_rest.upto(common) if common >= self._min_tokens else None
        text.at_rest = put_by(text.layers, base)

    def _has_room(self, stretch: Stretch, text: PrefixCache, budget_bytes: int | None) -> bool:
        """Whether a text at rest can be copied, if need be after all others are forgotten."""
        if budget_bytes is None:
            return True
        needed = sum(one.nbytes for one in stretch.chain())
        if mx.get_active_memory() + needed <= budget_bytes:
            return True
        self._forget_all_but(text)
        return mx.get_active_memory() + needed <= budget_bytes

    def _forget_all_but(self, kept: PrefixCache | None) -> None:
        for one in self._texts:
            if one not in self._busy and one is not kept:
                one.forget()


def _in_common(one: PrefixCache, other: PrefixCache) -> int:
    """How many tokens that both hold are the same."""
    held = min(one.layers[0].offset, other.layers[0].offset)
    return min(held, common_prefix(one.ids, other.ids))


def _kind(layers: Sequence[KVCache]) -> list[tuple[object, ...]]:
    """Caches of the same kind can take over what others hold."""
    return [(type(one), one.window, one.limit, one.kv_bits) for one in layers]
