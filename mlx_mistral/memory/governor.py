"""A text stays inside a budget: asked between chunks and between tokens, it steps down in time.

The order is always the same:

1. what other chats with the model have read is forgotten, while they are at rest;
2. smaller chunks of the prompt, which need less workspace;
3. what MLX keeps for reuse is given back, and places of a chat to go back to are forgotten;
4. the cache is quantized where it is, to 8 bits and then to 4, one layer after another;
5. the reply ends.

What a pass will need is reckoned before it is built, by the arithmetic of the plan, so nothing
waits for the device to find out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, MutableSequence, Sequence

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.cache.fixed import round_up
from mlx_mistral.cache.quantized import can_quantize
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.config.sizes import size_text
from mlx_mistral.errors import MemoryBudgetError, MlxMistralError
from mlx_mistral.model import Model

from .pass_needs import SMALLEST_CHUNK, PassNeeds
from .workspace import ID_BYTES, OTHER_BYTES

MOST_ATTEMPTS = 1000
"""Far more than there are chats to forget, chunks to halve and steps to take."""

Tell = Callable[[str], None]
"""Told each kind of step down once, in a line."""


def log(line: str) -> None:
    """Where nobody else is told."""
    logging.getLogger("mlx_mistral").warning("%s", line)


class Governor:
    """Watches over one text's caches.

    cache: changed in place where it is quantized, if it is a list; a tuple stays as it is.
    budget_bytes: for all that MLX allocates.
    spare: frees what the caller could do without.
    reserved_bytes: will be taken by something else meanwhile.
    pass_tokens: of the longest pass after the prompt's; several where drafts are checked.
    Nothing may be under way on the device when one is made.
    """

    def __init__(
        self,
        model: Model,
        cache: Sequence[KVCache],
        budget_bytes: int,
        *,
        tell: Tell = log,
        spare: Callable[[], None] | None = None,
        reserved_bytes: int = 0,
        pass_tokens: int = 1,
    ) -> None:
        self._config, self._cache, self._budget = model.config, cache, budget_bytes
        self._needs = PassNeeds(model=model, pass_tokens=pass_tokens)
        self._model, self._reserved = model, reserved_bytes
        self._tell, self._spare = tell, spare
        self._has_released = False
        self._told: set[str] = set()
        self._sure_until = self._end = self._still_comes = 0
        self._besides = 0
        self.measure()

    def measure(self) -> None:
        """Notes what else MLX holds: weights above all. Nothing may be under way."""
        taken = max(0, mx.get_active_memory() - self._held)
        self._besides = taken + self._reserved + self._model.reserved_bytes

    def check(self, n_tokens: int) -> None:
        """Before a prompt is read. Raises: MemoryBudgetError: it will not fit, whatever is done."""
        self._end = self._offset + n_tokens
        self._still_comes = n_tokens * ID_BYTES + OTHER_BYTES
        for _ in _attempts():
            if self._could_fit() or self._has_released:
                break
            self._step_down()
            self.measure()
        if not self._could_fit():
            raise MemoryBudgetError(
                f"{self._end} tokens do not fit the memory budget of {size_text(self._budget)} "
                f"beside {size_text(self._besides)} that are taken; shorten the text or give "
                "more with --memory"
            )

    def chunk(self, wanted: int) -> int:
        """Tokens of the prompt to read next, at most as many as wanted. Between two chunks.

        Raises: MemoryBudgetError: there is no room even for a small one.
        """
        self.measure()
        wanted = max(1, min(wanted, self._end - self._offset))
        size = wanted
        for _ in _attempts():
            if self._fits(size):
                break
            if self._forget_others():
                self.measure()
            elif size > SMALLEST_CHUNK:
                self._say("memory runs short: the prompt is read in smaller chunks")
                size = max(size // 2, SMALLEST_CHUNK)
            elif self._step_down():
                self.measure()
                size = wanted
            else:
                raise MemoryBudgetError(
                    f"the memory budget of {size_text(self._budget)} is used up after "
                    f"{self._offset} of {self._end} tokens; shorten the text or give more with "
                    "--memory"
                )
        if self._is_tight(size):
            self._grow(size)
        return size

    def may_go_on(self) -> bool:
        """Whether one pass more can be made; most calls compare two numbers."""
        n_new = self._needs.pass_tokens
        if self._offset + n_new <= self._sure_until:
            return True
        for _ in _attempts():
            if self._fits(n_new):
                break
            if not self._step_down():
                self._say(
                    f"the memory budget of {size_text(self._budget)} is used up: the reply ends "
                    f"at {self._offset} tokens; give more with --memory"
                )
                return False
        if self._is_tight(n_new):
            self._grow(n_new)
        self._sure_until = round_up(self._offset + n_new)
        return True

    @property
    def _offset(self) -> int:
        return self._cache[0].offset

    @property
    def _bits(self) -> int | None:
        return self._cache[0].kv_bits

    @property
    def _held(self) -> int:
        return sum(one.nbytes for one in self._cache)

    def _could_fit(self) -> bool:
        """Whether the prompt fits once every step down has been taken."""
        bits, n_new = self._narrowest(), min(SMALLEST_CHUNK, self._end - self._offset)
        needs = self._needs
        held = needs.held(self._end, bits) + needs.workspace(n_new, self._end, bits)
        free = self._budget - self._besides - self._still_comes - held
        return free >= self._copied(self._end, bits)

    def _fits(self, n_new: int) -> bool:
        """Were the buffers to grow one after another, and then to be quantized so."""
        return self._free(n_new) >= self._copied(self._offset + n_new, self._bits)

    def _is_tight(self, n_new: int) -> bool:
        """Whether growing all buffers at once, as a pass may do, would be too much."""
        return self._free(n_new) < self._held

    def _free(self, n_new: int) -> int:
        """What is left when n tokens more are stored, while the pass over them is under way."""
        end = self._offset + n_new
        held = max(self._held, self._needs.held(end, self._bits))
        return self._budget - self._besides - held - self._needs.workspace(n_new, end, self._bits)

    def _copied(self, end: int, bits: int | None) -> int:
        """One layer's buffers while they are copied, to grow or to be quantized."""
        n_copies = 1 if bits == self._narrowest() else 3
        return self._needs.copied(end, bits, n_copies=n_copies)

    def _say(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self._tell(line)

    def _step_down(self) -> bool:
        """Frees memory. False: all has been done."""
        if self._forget_others():
            return True
        if not self._has_released:
            self._has_released = True
            if self._spare is not None:
                self._spare()
            mx.clear_cache()
            mx.set_cache_limit(0)
            self._say("memory runs short: what is kept for reuse is given back")
            return True
        narrower = [bits for bits in self._narrower() if bits < (self._bits or 16)]
        if not narrower or not isinstance(self._cache, MutableSequence):
            return False
        for i, one in enumerate(self._cache):
            self._cache[i] = one.to_quantized(bits=narrower[0])
            del one
            mx.eval(self._cache[i].state)
        mx.clear_cache()
        self._say(f"memory runs short: the cache is quantized to {narrower[0]} bits")
        return True

    def _forget_others(self) -> bool:
        freed = self._model.prefixes.release()
        if not freed:
            return False
        self._besides = max(0, self._besides - freed)
        mx.clear_cache()
        self._say("memory runs short: chats at rest will be read again when they go on")
        return True

    def _narrower(self) -> tuple[int, ...]:
        return KV_BITS if can_quantize(self._config.head_dim) else ()

    def _narrowest(self) -> int | None:
        mutable = isinstance(self._cache, MutableSequence)
        return min(self._narrower(), default=self._bits) if mutable else self._bits

    def _grow(self, n_new: int) -> None:
        """Makes room layer by layer, so that one buffer at a time is held twice."""
        for one in self._cache:
            if one.reserve(n_new):
                mx.eval(one.state)


def _attempts() -> Iterator[None]:
    """Raises: MlxMistralError: memory is reckoned wrong, so that no step would ever be enough."""
    for _ in range(MOST_ATTEMPTS):
        yield
    raise MlxMistralError(
        f"{MOST_ATTEMPTS} steps in a row made no room for one pass; this is a mistake in the "
        "program: report it, with the model and the budget"
    )


def governor_of(
    model: Model,
    cache: Sequence[KVCache],
    *,
    tell: Tell = log,
    spare: Callable[[], None] | None = None,
    reserved_bytes: int = 0,
    pass_tokens: int = 1,
) -> Governor | None:
    """What watches over a text of a model that has a budget."""
    if model.budget_bytes is None:
        return None
    return Governor(
        model,
        cache,
        model.budget_bytes,
        tell=tell,
        spare=spare,
        reserved_bytes=reserved_bytes,
        pass_tokens=pass_tokens,
    )
