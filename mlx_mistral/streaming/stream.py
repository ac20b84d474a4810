"""The experts that are in memory, within a budget, and those on their way there."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor, wait

import mlx.core as mx

from mlx_mistral.errors import CheckpointError, MemoryBudgetError

from .eviction import Worth
from .files import OpenFiles
from .library import Batch, ExpertLibrary
from .slot import Key, Slot
from .stats import StreamingStats

READERS = 4
"""Threads: enough for a disk to see several requests at once."""


class ExpertStream:
    """Experts in slots of memory, read from the files as they are chosen.

    One pass of one model at a time; readers fill slots meanwhile. `begin` starts to read an
    expert and keeps it, `take` waits for it, `release` allows that it is given up again.
    """

    def __init__(
        self, library: ExpertLibrary, budget_bytes: int, n_experts: int, *, read_ahead: bool = True
    ) -> None:
        """Raises: MemoryBudgetError: the budget does not hold two experts."""
        largest = max(form.nbytes for form in library.forms)
        if budget_bytes < 2 * largest:
            raise MemoryBudgetError(
                f"experts are given {budget_bytes} bytes, two of them take {2 * largest}: one "
                "computes while another is read; give that much"
            )
        self.stats = StreamingStats()
        self.budget_bytes = min(budget_bytes, library.nbytes)
        self.holds_all = budget_bytes >= library.nbytes
        """Whether there is room for every expert, so that none need a slot."""
        self.expert_bytes = largest
        """Of one expert; where they differ, of the largest."""
        self.reads_ahead = read_ahead
        self._library = library
        self._worth = Worth(len(library.forms), n_experts)
        self._slots: dict[Key, Slot] = {}
        self._spares: list[Slot] = []
        """Slots whose reading was called off."""
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(READERS, thread_name_prefix="experts")
        self._finalizer = weakref.finalize(self, _close, self._pool, library.files)

    @property
    def slots(self) -> int:
        """Experts that fit at once, at least."""
        return self.budget_bytes // self.expert_bytes

    @property
    def resident_bytes(self) -> int:
        """Memory that slots take now."""
        return sum(slot.form.nbytes for slot in [*self._slots.values(), *self._spares])

    @property
    def resident(self) -> list[Key]:
        """Layer and number of the experts that have a slot."""
        return list(self._slots)

    def beginnings(self, n_values: int) -> dict[str, tuple[tuple[int, ...], mx.array]]:
        """The shapes and first values of the parameters that are not resident, by name."""
        return self._library.beginnings(n_values)

    def close(self) -> None:
        """Ends the reading threads and closes the files; the model computes no more."""
        self._finalizer()

    def turn(self, layer: int, shares: Mapping[int, float]) -> list[int]:
        """A layer's tokens have chosen: the experts in the order in which to work on them.

        First what is in memory, then what is on its way, then the rest; reading ahead of what
        was not chosen after all is called off.
        """
        self._worth.note(layer, shares)
        ranks = {expert: self._rank((layer, expert)) for expert in shares}
        counts = [list(ranks.values()).count(rank) for rank in range(3)]
        self.stats.hits += counts[0]
        self.stats.late += counts[1]
        self.stats.misses += counts[2]
        for key, slot in list(self._slots.items()):
            if key[0] == layer and key[1] not in shares and not slot.is_complete:
                self._call_off(key)
        return sorted(shares, key=lambda expert: ranks[expert])

    def begin(self, key: Key, *, guessed: Collection[Key] | None = None) -> bool:
        """Reads an expert unless it is there, and keeps it; False: no room before a release.

        guessed: it is one of these, which may be chosen next; it is not kept, and none of them
        has to go for it.
        Raises: CheckpointError: the stream is closed.
        """
        if not self._finalizer.alive:
            raise CheckpointError("this model's experts were closed; load it again")
        slot = self._slots.get(key)
        if slot is not None and slot.has_failed:
            # Of a guess, perhaps long ago: the disk may be there again.
            self._call_off(key)
            slot = None
        if slot is None:
            slot = self._room(key, guessed or ())
            if slot is None:
                return False
            slot.key = key
            self._slots[key] = slot
            # Not a method: a reader that held the stream might be the one to end the readers.
            context = self._library, slot, self.stats, self._counting
            slot.jobs = [
                self._pool.submit(_read, *context, batch) for batch in self._library.batches(key)
            ]
            self.stats.read_ahead += guessed is not None
        if guessed is None:
            slot.pinned = True
        return True

    def take(self, key: Key) -> Slot:
        """An expert that was begun, once it is in memory.

        Raises: CheckpointError: it cannot be read; it is forgotten then, and may be begun again.
        """
        slot = self._slots[key]
        if slot.jobs:
            start = time.perf_counter()
            try:
                for job in slot.jobs:
                    job.result()
            except BaseException:
                self._call_off(key)
                raise
            finally:
                self.stats.wait_seconds += time.perf_counter() - start
            slot.jobs = []
        return slot

    def release(self, keys: Collection[Key], fence: mx.array | None = None) -> None:
        """They may go, once `fence` is computed; None: what reads them is computed already."""
        for key in keys:
            slot = self._slots.get(key)
            if slot is not None:
                slot.pinned = False
                if fence is not None:
                    slot.is_read_until(fence)

    def _rank(self, key: Key) -> int:
        slot = self._slots.get(key)
        return 2 if slot is None else 0 if slot.is_complete else 1

    def _room(self, key: Key, guessed: Collection[Key]) -> Slot | None:
        """A slot for an expert, of spare memory, memory not used yet, or another's."""
        form = self._library.forms[key[0]]
        used = self.resident_bytes
        while True:
            spare = self._spares.pop() if self._spares else None
            if spare is None and used + form.nbytes <= self.budget_bytes:
                return Slot(form)
            if spare is None:
                spare = self._least(guessed)
            if spare is None:
                return None
            used -= spare.form.nbytes
            is_idle = _idle(spare)
            if is_idle and spare.form == form and used + form.nbytes <= self.budget_bytes:
                return spare

    def _least(self, guessed: Collection[Key]) -> Slot | None:
        """The least valuable slot, taken from its expert."""
        free = [key for key, slot in self._slots.items() if not slot.pinned and key not in guessed]
        if not free:
            return None
        return self._slots.pop(min(free, key=self._worth.of))

    def _call_off(self, key: Key) -> None:
        slot = self._slots.pop(key)
        for job in slot.jobs:
            job.cancel()
        slot.pinned = False
        self._spares.append(slot)


def _read(
    library: ExpertLibrary,
    slot: Slot,
    stats: StreamingStats,
    counting: threading.Lock,
    batch: Batch,
) -> None:
    n_bytes = library.fill(slot, batch)
    with counting:
        stats.bytes_read += n_bytes


def _idle(slot: Slot) -> bool:
    """Waits until nobody writes or reads a slot; False: as `Slot.settle`."""
    wait([job for job in slot.jobs if not job.cancel()])
    slot.jobs = []
    return slot.settle()


def _close(pool: ThreadPoolExecutor, files: OpenFiles) -> None:
    pool.shutdown(wait=True, cancel_futures=True)
    files.close()
