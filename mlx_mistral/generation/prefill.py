"""Reading a prompt: many tokens a pass, in chunks that bound the memory they need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import mlx.core as mx

from mlx_mistral.cache import KVCache
from mlx_mistral.model import Model

Progress = Callable[[int, int], None]
"""Called with the prompt tokens read so far and their total."""
Interrupt = Callable[[], None]
"""Called often while a prompt is read; it raises to end that."""
StepSize = int | Callable[[], int]
"""Tokens of a chunk; what is called is asked before each."""


def prefill(
    model: Model,
    tokens: mx.array,
    cache: Sequence[KVCache],
    *,
    step_size: StepSize,
    progress: Progress | None = None,
    interrupt: Interrupt | None = None,
) -> mx.array:
    """Feeds a prompt to the caches; returns the logits of its last token alone.

    interrupt: called before each layer of each chunk, once what came before is computed.
        Where it raises, the caches hold the chunks before.
    Shapes: (B, T) ints -> (B, vocab).
    """
    total = tokens.shape[1]
    before_layer = None if interrupt is None else _computed_then(interrupt)
    if progress:
        progress(0, total)
    start, size = 0, _size(step_size)
    while start + size < total:
        with all_or_nothing(cache, size):
            # Only the caches are needed, but what is last leads past all attention: rings are then
            # written when nobody reads what was there before, and need not be copied.
            last = model.model(tokens[:, start : start + size], cache, before_layer, last_only=True)
        _compute(last, cache)
        mx.clear_cache()
        start += size
        if progress:
            progress(start, total)
        size = _size(step_size)
    rest = tokens[:, start:]
    with all_or_nothing(cache, rest.shape[1]):
        logits = model.head(model.model(rest, cache, before_layer, last_only=True))[:, 0]
    _compute(logits, cache)
    if progress:
        progress(total, total)
    return logits


def _size(step_size: StepSize) -> int:
    return step_size if isinstance(step_size, int) else step_size()


def _compute(last: mx.array, cache: Sequence[KVCache]) -> None:
    """Where that fails nothing is sure to be left of what the caches held: they are emptied."""
    try:
        mx.eval(last, [one.state for one in cache])
    except Exception:
        for one in cache:
            one.trim(one.offset)
        raise


def _computed_then(interrupt: Interrupt) -> Callable[[mx.array], None]:
    def before_layer(x: mx.array) -> None:
        mx.eval(x)
        interrupt()

    return before_layer


@contextmanager
def all_or_nothing(cache: Sequence[KVCache], n_new: int) -> Iterator[None]:
    """Takes the caches back where a pass is interrupted between two layers."""
    before = cache[0].offset
    # One token can always be taken back; more may have overwritten the ring.
    snapshots = [one.snapshot() for one in cache] if n_new > 1 else None
    try:
        yield
    except BaseException:
        for i, one in enumerate(cache):
            if snapshots is not None:
                one.restore(snapshots[i])
            else:
                one.trim(one.offset - before)
        raise
