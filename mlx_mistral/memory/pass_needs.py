"""What one pass over a text's caches will hold, by the arithmetic of the plan."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mistral.backend.scratch import ScratchSizes
from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache.fixed import round_up
from mlx_mistral.model import Model

from .cache import cache_bytes, ring_bytes, stored_bytes
from .workspace import pass_bytes

SMALLEST_CHUNK = 32
"""Tokens; before a prompt is read in smaller chunks, more of memory is freed."""
DRAFTED_ROWS = 4
"""Arrays of a number for each word that a drafted token adds to those of one draw: all rows'
logits are there at once, while tokens are drawn from one after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassNeeds:
    """Bytes that a text's caches and a pass over them take; `bits` are those of the caches.

    pass_tokens: of the longest pass after the prompt's; several where drafts are checked.
    """

    model: Model
    pass_tokens: int = 1

    def held(self, end: int, bits: int | None) -> int:
        """Of caches that hold so many tokens."""
        return cache_bytes(self.model.config, end, self.model.dtype.size, bits)

    def workspace(self, n_new: int, end: int, bits: int | None) -> int:
        """With the copies of rings that are written while a snapshot holds them."""
        config, size = self.model.config, self.model.dtype.size
        besides, passes = ring_bytes(config, end, size, bits), {n_new}
        if n_new == self.pass_tokens:  # of decoding: what is decided holds until buffers grow
            besides += self._drafting(bits)
            end, passes = round_up(end), {n_new, 1}
        scratch = scratch_of(self.model)
        return besides + max(
            pass_bytes(config, n, end, size, scratch=scratch, kv_bits=bits) for n in passes
        )

    def copied(self, end: int, bits: int | None, *, n_copies: int) -> int:
        """Copies of one layer's buffers, the widest."""
        config, end = self.model.config, round_up(end)
        widest = max(end if w is None else min(w, end) for w in config.windows)
        return n_copies * stored_bytes(config, widest, self.model.dtype.size, bits)

    def _drafting(self, bits: int | None) -> int:
        """Rings with room to go back, and a draw for each token of a draft."""
        n_drafted, config = self.pass_tokens - 1, self.model.config
        n_rings = sum(window is not None for window in config.windows)
        room = n_rings * stored_bytes(config, n_drafted, self.model.dtype.size, bits)
        return room + n_drafted * 4 * DRAFTED_ROWS * config.vocab_size


def text_bytes(model: Model, n_tokens: int) -> int:
    """What another model's cache of a text and its work on it take."""
    size = model.dtype.size
    cache = cache_bytes(model.config, n_tokens, size)
    scratch = scratch_of(model)
    return cache + pass_bytes(model.config, SMALLEST_CHUNK, n_tokens, size, scratch=scratch)


def scratch_of(model: Model) -> ScratchSizes:
    """Return the temporary memory of the backend's operations for a loaded model."""
    return active_backend().scratch.for_experts(is_quantized=model.config.quantization is not None)
