"""How many texts of a model are decoded together inside its budget."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from contextlib import ExitStack

import mlx.core as mx

from mlx_mistral.config.sizes import size_text
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.model import Model

from .batch import Extent, batch_bytes, batch_cache_bytes
from .governor import Tell
from .limits import limits_of
from .pass_needs import SMALLEST_CHUNK, scratch_of


class BatchRoom:
    """What a model's budget leaves to texts that are decoded together; anything, without one.

    A text counts with all tokens that it may still get, so that none which has begun must be
    given up. Methods that take the texts inside count a prompt that is kept for others as one.
    While there are any, MLX has limits as in `limits_of`.

    kv_bits: of the texts' caches.
    tell: told in a line, once of a kind, what is done otherwise than asked for.
    Nothing may be under way on the device when one is made.
    """

    def __init__(self, model: Model, *, kv_bits: int | None, tell: Tell) -> None:
        self._model, self._kv_bits, self._tell = model, kv_bits, tell
        self._budget = model.budget_bytes
        self._told: set[str] = set()
        self._limits, self._wired = ExitStack(), 0
        weakref.finalize(self, self._limits.close).atexit = False
        self._besides = 0
        self._measure()

    def tokens(self, n_prompt: int, n_wanted: int) -> int:
        """How many tokens a reply may have, at most as many as wanted.

        Raises: MemoryBudgetError: there is no room for the prompt and one token, even alone.
        """
        if n_wanted < 1 or self.holds([Extent(n_prompt, n_prompt + n_wanted)]):
            return n_wanted
        fitting, too_many = 0, n_wanted
        while too_many - fitting > 1:
            middle = (fitting + too_many) // 2
            if self.holds([Extent(n_prompt, n_prompt + middle)]):
                fitting = middle
            else:
                too_many = middle
        if not fitting:
            raise self._refusal(n_prompt)
        self._say(
            "cut",
            f"the memory budget of {self._budget_text} holds {n_prompt + fitting} tokens of a "
            f"text: its reply ends after {fitting}; give more with --memory",
        )
        return fitting

    def admits(self, inside: Sequence[Extent], waiting: Sequence[Extent]) -> int:
        """How many of those that wait may join, the first ones first.

        Raises: MemoryBudgetError: not one, although none is inside.
        """
        if self._budget is None or not waiting:
            return len(waiting)
        if not inside:
            mx.synchronize()
            self._measure()
        n = 0
        while n < len(waiting) and self.holds([*inside, *waiting[: n + 1]]):
            n += 1
        if not n and not inside:
            raise self._refusal(waiting[0].prompt)
        if n < len(waiting):
            self._say(
                "wait",
                f"the memory budget of {self._budget_text} holds {len(inside) + n} of "
                f"{len(inside) + len(waiting)} texts at once; the others wait",
            )
        self._wire([*inside, *waiting[:n]])
        return n

    def chunk(self, inside: Sequence[Extent], wanted: int) -> int:
        """Tokens of prompts to read at a time, at most as many as wanted."""
        size = wanted
        while size > SMALLEST_CHUNK and not self.holds(inside, size):
            size = max(size // 2, SMALLEST_CHUNK)
        if size < wanted:
            self._say("chunks", "memory runs short: prompts are read in smaller chunks")
        return size

    def holds(self, inside: Sequence[Extent], chunk: int = SMALLEST_CHUNK) -> bool:
        """Whether all of them fit, their prompts read in chunks of so many tokens."""
        if self._budget is None:
            return True
        needed = batch_bytes(
            self._model.config,
            inside,
            self._model.dtype.size,
            chunk=chunk,
            scratch=scratch_of(self._model),
            kv_bits=self._kv_bits,
        )
        return self._besides + needed <= self._budget

    def close(self) -> None:
        """No text is inside any more."""
        self._limits.close()
        self._wired = 0

    def _measure(self) -> None:
        self._besides = mx.get_active_memory() + self._model.reserved_bytes

    def _wire(self, inside: Sequence[Extent]) -> None:
        """MLX's limits for these texts, weights and caches wired; never for fewer than before."""
        longest, size = max(one.end for one in inside), self._model.dtype.size
        caches = batch_cache_bytes(self._model.config, len(inside), longest, size, self._kv_bits)
        if self._budget is None or self._besides + caches <= self._wired:
            return
        self.close()
        self._wired = self._besides + caches
        self._limits.enter_context(limits_of(self._budget, wired_bytes=self._wired))

    def _refusal(self, n_prompt: int) -> MemoryBudgetError:
        return MemoryBudgetError(
            f"a text with a prompt of {n_prompt} tokens does not fit the memory budget of "
            f"{self._budget_text} beside {size_text(self._besides)} that are taken, not even "
            "alone; shorten it or give more with --memory"
        )

    @property
    def _budget_text(self) -> str:
        return size_text(self._budget or 0)

    def _say(self, kind: str, line: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self._tell(line)
