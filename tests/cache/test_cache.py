"""Caches against a full pass: random windows, chunkings, batches; trims, snapshots, bounds."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from full_pass import full_pass, model_with
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, MOE, random_ids, run, tiny_config, tiny_model

from mlx_mistral.cache import GrowingCache, KVCache, RotatingCache
from mlx_mistral.errors import CacheError, ContextError

TOLERANCE = 1e-5


@st.composite
def chunked_texts(draw: st.DrawFn) -> tuple[list[int], list[int], int | None]:
    chunks = draw(st.lists(st.integers(1, 12), min_size=1, max_size=7))
    window = draw(st.sampled_from([None, 1, 2, 3, 5, 8, 11, 64]))
    return random_ids(sum(chunks), seed=draw(st.integers(0, 5))), chunks, window


@settings(max_examples=60, deadline=None)
@given(chunked_texts())
def test_any_chunking_under_any_window_equals_one_full_pass(
    case: tuple[list[int], list[int], int | None],
) -> None:
    ids, chunks, window = case
    model = model_with(window)
    assert np.abs(run(model, ids, chunks) - full_pass(model, ids)).max() < TOLERANCE


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 14), min_size=2, max_size=4),
    window=st.sampled_from([None, 1, 2, 5, 9]),
    first=st.integers(1, 14),
    decoded=st.integers(1, 12),
)
def test_a_batch_of_uneven_prompts_equals_each_text_alone(
    lengths: list[int], window: int | None, first: int, decoded: int
) -> None:
    model, longest = model_with(window), max(lengths)
    texts = [random_ids(n + decoded, seed=i) for i, n in enumerate(lengths)]
    cache = model.make_cache(left_padding=[longest - n for n in lengths])
    rows = mx.array([[0] * (longest - n) + t for n, t in zip(lengths, texts, strict=True)])
    first = min(first, longest)
    chunks = [first, *([longest - first] if first < longest else []), *[1] * decoded]
    out, start = [], 0
    for n in chunks:
        out.append(model(rows[:, start : start + n], cache))
        start += n
    logits = np.array(mx.concatenate(out, axis=1))
    for row, (n, text) in enumerate(zip(lengths, texts, strict=True)):
        alone = full_pass(model, text)
        assert np.abs(logits[row, longest - n :] - alone).max() < TOLERANCE


@pytest.mark.parametrize("window", [None, 3])
def test_no_token_of_a_padded_batch_sees_nothing(window: int | None) -> None:
    """A row of scores with nothing in it would be the kernel's choice of garbage."""
    cache = model_with(window).make_cache(left_padding=[0, 7])[0]
    mask = np.array(cache.make_mask(9))
    assert mask.shape == (2, 1, 9, 9)
    assert mask.any(axis=-1).all()
    assert not mask[1, 0, 7:, :7].any()


def test_query_scaling_and_yarn_count_from_each_text_of_a_batch() -> None:
    model = tiny_model(tiny_config(**FAMILIES["ministral3"]))
    short, long = random_ids(6), random_ids(30, seed=1)
    cache = model.make_cache(left_padding=[24, 0])
    together = np.array(model(mx.array([[0] * 24 + short, long]), cache))
    alone = np.array(model(mx.array([short]), model.make_cache()))
    assert np.abs(together[0, 24:] - alone[0]).max() < TOLERANCE


@pytest.mark.parametrize("window", [1, 6, 300])
def test_a_rotating_cache_never_holds_more_than_its_window(window: int) -> None:
    cache = RotatingCache(window)
    for n in [7, 1, 1, 400, 1, 3, 90]:
        keys = mx.zeros((1, 2, n, 4))
        seen, _ = cache.update_and_fetch(keys, keys)
        assert seen.shape[2] <= window - 1 + n
        assert cache.capacity <= window
        assert cache.nbytes <= 2 * 2 * window * 4 * 4


def test_each_layer_has_the_kind_of_cache_that_its_window_asks_for() -> None:
    cache = tiny_model(tiny_config(**FAMILIES["ministral"])).make_cache()
    assert [type(one) for one in cache] == [GrowingCache, *[RotatingCache] * 3]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context", [1, 5, 6, 20, 300])
def test_a_context_is_honoured_or_refused_by_every_family(family: str, context: int) -> None:
    """Memory stays within the context; what is answered is what an unbounded cache answers."""
    model, ids = tiny_model(tiny_config(**FAMILIES[family])), random_ids(320)
    bounded, free = model.make_cache(context=context), model.make_cache()
    config = model.config
    bytes_a_token = 2 * config.n_kv_heads * config.head_dim * 4
    endless = all(window is not None and window <= context for window in config.windows)
    for start in range(0, 320 if endless else context // 40 * 40, 40):
        chunk = mx.array([ids[start : start + 40]])
        assert mx.abs(model(chunk, bounded) - model(chunk, free)).max().item() < TOLERANCE
    if not endless:
        with pytest.raises(ContextError, match=f"context of {context}"):
            model(mx.array([ids[: context + 1 - bounded[0].offset]]), bounded)
    assert all(one.nbytes <= context * bytes_a_token for one in bounded)


def test_a_refused_token_leaves_a_limited_cache_as_it_was() -> None:
    cache = GrowingCache(limit=5)
    keys = mx.ones((1, 1, 4, 2))
    cache.update_and_fetch(keys, keys)
    with pytest.raises(ContextError):
        cache.update_and_fetch(keys, keys)
    assert cache.offset == 4


@pytest.mark.parametrize("context", [0, -3])
def test_a_context_of_nothing_is_refused(context: int) -> None:
    with pytest.raises(CacheError, match="context"):
        tiny_model(tiny_config()).make_cache(context=context)


@settings(max_examples=60, deadline=None)
@given(
    window=st.sampled_from([None, 1, 2, 4, 7]),
    chunks=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    back=st.integers(0, 30),
    again=st.lists(st.integers(1, 5), min_size=1, max_size=3),
)
def test_a_trimmed_cache_goes_on_like_a_new_one_or_refuses(
    window: int | None, chunks: list[int], back: int, again: list[int]
) -> None:
    model, total = model_with(window), sum(chunks)
    ids, other = random_ids(total), random_ids(sum(again), seed=7)
    back = min(back, total)
    cache = model.make_cache()
    for n in chunks:
        model(mx.array([[ids.pop(0) for _ in range(n)]]), cache)
    ids = random_ids(total)
    if not all(one.can_trim(back) for one in cache):
        with pytest.raises(CacheError, match="snapshot"):
            cache[0].trim(back)
        assert cache[0].offset == total
        return
    for one in cache:
        assert one.trim(back) == back
    out, start = [], 0
    for n in again:
        out.append(np.array(model(mx.array([other[start : start + n]]), cache)[0]))
        start += n
    expected = full_pass(model, ids[: total - back] + other)[total - back :]
    assert np.abs(np.concatenate(out) - expected).max() < TOLERANCE


def test_a_ring_refuses_to_go_back_past_what_it_has_overwritten() -> None:
    cache = RotatingCache(4)
    for _ in range(9):
        cache.update_and_fetch(mx.ones((1, 1, 1, 2)), mx.ones((1, 1, 1, 2)))
    assert [cache.can_trim(n) for n in (0, 1, 2, 8, 9)] == [True, True, False, False, True]
    cache.trim(1)
    assert not cache.can_trim(1)
    assert not cache.is_trimmable()


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("at", [3, 17])
def test_a_snapshot_brings_back_its_moment_also_past_a_wrap(window: int | None, at: int) -> None:
    model, ids = model_with(window), random_ids(at)
    cache = model.make_cache()
    model(mx.array([ids]), cache)
    snapshots = [one.snapshot() for one in cache]
    for detour in (random_ids(1, seed=3), random_ids(12, seed=4)):
        model(mx.array([detour]), cache)
        mx.eval([one.state for one in cache])
        for one, snapshot in zip(cache, snapshots, strict=True):
            one.restore(snapshot)
    after = random_ids(6, seed=5)
    out = np.array(model(mx.array([after]), cache)[0])
    assert np.abs(out - full_pass(model, ids + after)[at:]).max() < TOLERANCE


def test_a_snapshot_of_rewritten_text_is_refused() -> None:
    cache, keys = GrowingCache(), mx.ones((1, 1, 10, 2))
    cache.update_and_fetch(keys, keys)
    early, late = cache_at(cache, 4), cache.snapshot()
    cache.trim(5)
    cache.update_and_fetch(keys, keys)
    assert cache.can_restore(early)
    with pytest.raises(CacheError, match="rewritten"):
        cache.restore(late)


def cache_at(cache: GrowingCache, offset: int) -> object:
    """A snapshot taken when the cache held fewer tokens of the same text."""
    from mlx_mistral.cache import Snapshot

    return Snapshot(GrowingCache, offset, cache.snapshot().data)


def test_a_snapshot_of_another_window_is_refused() -> None:
    with pytest.raises(CacheError, match="another cache"):
        RotatingCache(4).restore(RotatingCache(5).snapshot())


@pytest.mark.parametrize("make", [GrowingCache, lambda: RotatingCache(512)])
def test_a_decoded_token_writes_in_place_of_copying_the_buffer(make: type[KVCache]) -> None:
    cache, many, one = make(), mx.zeros((1, 8, 500, 64)), mx.zeros((1, 8, 1, 64))
    cache.update_and_fetch(many, many)
    mx.eval(cache.state)
    held = cache.nbytes
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    for _ in range(8):
        mx.eval(cache.update_and_fetch(one, one))
    assert mx.get_peak_memory() - before < held / 4


def test_the_mixture_decodes_in_a_batch_past_its_window() -> None:
    model = tiny_model(tiny_config(**MOE, sliding_window=4))
    texts = [random_ids(18, seed=1), random_ids(18, seed=2)]
    cache = model.make_cache()
    together = [model(mx.array([[a], [b]]), cache) for a, b in zip(*texts, strict=True)]
    for row, text in enumerate(texts):
        alone = run(model, text, [18])
        assert np.abs(np.array(mx.concatenate(together, axis=1))[row] - alone).max() < TOLERANCE
