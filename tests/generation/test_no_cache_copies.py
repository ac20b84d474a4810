"""No step copies a large cache: seen by peak memory, and by time against the cache's capacity.

The limits of a Mac decide here too (backend/pipelining.py): steps of a small model with large
caches wait for each other, so that the buffers are free when they are written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import mlx.core as mx
import pytest
from tiny import random_ids, tiny_config, tiny_model

from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.pipelining import METAL
from mlx_mistral.cache import KVCache
from mlx_mistral.generation import BatchGenerator, Sampling, generate_ids
from mlx_mistral.generation.speculate import generate_with_drafts
from mlx_mistral.model import Model, fuse

CAPACITY = 1 << 16
N_TOKENS = 1 << 14
N_STEPS = 16
REPEATED = [5, 6, 7, 8] * 6
"""A prompt from which n-gram drafts are made."""


def model_of(n_layers: int, window: int | None) -> Model:
    model = tiny_model(
        tiny_config(head_dim=64, n_layers=n_layers, sliding_window=window, vocab_size=61)
    )
    fuse(model)
    return model


def full_caches(model: Model, kv_bits: int | None) -> list[KVCache]:
    """Caches of many tokens, which attention reads long enough for steps to overlap."""
    caches = model.make_cache(kv_bits=kv_bits)
    rows = mx.zeros((1, 2, N_TOKENS, 64))
    for cache in caches:
        cache.update_and_fetch(rows, rows)
        cache.reserve(4 * N_STEPS)
        mx.eval(cache.state)
    return caches


def single(model: Model, caches: list[KVCache]) -> Iterator[object]:
    return generate_ids(model, [1], cache=caches, sampling=Sampling(), max_tokens=N_STEPS)


def drafts(model: Model, caches: list[KVCache]) -> Iterator[object]:
    return generate_with_drafts(
        model, REPEATED, cache=caches, sampling=Sampling(), max_tokens=4 * N_STEPS
    )


def peak_over(steps: Iterator[object], n_warm: int) -> int:
    """Bytes beyond what MLX holds after some steps."""
    for _ in range(n_warm):
        next(steps)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    for _ in steps:
        pass
    return mx.get_peak_memory() - before


def seconds_to_copy(caches: list[KVCache]) -> float:
    buffers = [buffer for cache in caches for buffer in cache.state]
    return min(_seconds(lambda: mx.eval([mx.array(b) for b in buffers])) for _ in range(3))


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@pytest.mark.parametrize("is_compiled", [True, False])
@pytest.mark.parametrize("n_layers", [1, 3])
@pytest.mark.parametrize(
    ("decode", "window", "kv_bits"),
    [(single, None, None), (single, N_TOKENS, None), (single, None, 8), (drafts, None, None)],
    ids=["single", "window", "8 bits", "drafts"],
)
def test_decoding_writes_large_caches_in_place(
    decode: Callable[[Model, list[KVCache]], Iterator[object]],
    window: int | None,
    kv_bits: int | None,
    n_layers: int,
    is_compiled: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Drafts give a ring other slots, so that it is copied when drafting begins and ends."""
    if not is_compiled:
        monkeypatch.setattr(Backend, "can_compile", lambda self: False)
    model = model_of(n_layers, window)
    caches = full_caches(model, kv_bits)
    assert sum(cache.nbytes for cache in caches) > METAL.max_copied_bytes
    # Scores over a quantized cache are as large as its keys, and two steps may have them.
    buffer_bytes = max(buffer.nbytes for buffer in caches[0].state)
    limit = (caches[0].nbytes if kv_bits else buffer_bytes) * 3 // 4
    assert peak_over(decode(model, caches), 3) < limit


@pytest.mark.parametrize("window", [None, CAPACITY])
def test_a_step_takes_no_time_for_the_capacity(window: int | None) -> None:
    """Few tokens in large buffers: attention reads little of them."""
    model = model_of(1, window)
    caches = model.make_cache()
    model(mx.array([random_ids(16)]), caches)
    for cache in caches:
        cache.reserve(CAPACITY - 256)
        mx.eval(cache.state)
    copying = seconds_to_copy(caches)
    steps = single(model, caches)
    for _ in range(3):
        next(steps)
    fastest = min(_seconds(lambda: next(steps)) for _ in range(N_STEPS - 4))
    assert fastest < copying / 2


@pytest.mark.parametrize("n_layers", [2])
@pytest.mark.parametrize("window", [None, 1024])
def test_a_batch_writes_its_caches_in_place(window: int | None, n_layers: int) -> None:
    model = model_of(n_layers, window)
    batch = BatchGenerator(model)
    for n in (1100, 1090, 1070):
        batch.insert(random_ids(n, seed=n), max_tokens=N_STEPS)
    batch.next()
    buffer_bytes = batch.nbytes / n_layers / 2
    assert batch.nbytes > METAL.max_copied_bytes

    def steps() -> Iterator[object]:
        for _ in range(N_STEPS - 4):
            yield batch.next()

    assert peak_over(steps(), 3) < buffer_bytes / 2
