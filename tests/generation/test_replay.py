"""A pass that is replayed computes what it computes unreplayed, whatever its length."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache
from mlx_mistral.generation.replay import Replay
from mlx_mistral.model import Model

pytestmark = pytest.mark.skipif(
    not active_backend().can_compile(), reason="MLX compiles nothing on this machine"
)


def model_of(family: str) -> Model:
    return tiny_model(tiny_config(**FAMILIES[family]))


class Traces:
    """Logits of each pass, and how often they were traced."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.n = 0

    def __call__(
        self, tokens: mx.array, caches: Sequence[KVCache], arrays: list[mx.array]
    ) -> list[mx.array]:
        self.n += 1
        return [self._model(tokens, caches), *arrays]


def replayed(replay: Replay, ids: list[int]) -> tuple[np.ndarray, bool]:
    forms = replay.forms(len(ids))
    assert forms is not None
    (logits,), is_traced = replay(forms, mx.array([ids]))
    return np.array(logits), is_traced


@pytest.mark.parametrize("family", FAMILIES)
def test_passes_of_several_lengths_go_on_with_each_other(family: str) -> None:
    model, ids = model_of(family), random_ids(40)
    cache, n = model.make_cache(), 10
    for one in cache:
        one.allow_trim(3)
    model(mx.array([ids[:n]]), cache)
    traces = Traces(model)
    replay = Replay(model, cache, traces, n_kept=3)
    expected = np.array(model(mx.array([ids])))
    for length in (1, 3, 2, 1, 3, 2, 2, 1):
        logits, _ = replayed(replay, ids[n : n + length])
        np.testing.assert_allclose(logits, expected[:, n : n + length], atol=2e-5)
        n += length
    assert [one.offset for one in cache] == [n] * len(cache)


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
@pytest.mark.parametrize("padding", [None, (0, 3, 29), (0, 61)])
@pytest.mark.parametrize("window", [None, 32, 70])
def test_quantized_and_padded_caches_hold_and_show_what_they_do_unreplayed(
    window: int | None, padding: tuple[int, ...] | None, kv_bits: int | None
) -> None:
    """Past the ends of buffers and rings, while padding is in sight and when it is not."""
    model = tiny_model(tiny_config(sliding_window=window, head_dim=32, n_layers=2))
    n_rows, n_prompt = len(padding or (0,)), 62
    ids = mx.array([random_ids(n_prompt + 12, seed=row) for row in range(n_rows)])
    caches = [model.make_cache(kv_bits=kv_bits, left_padding=padding) for _ in range(2)]
    for cache in caches:
        model(ids[:, :n_prompt], cache)
    replay = Replay(model, caches[0], Traces(model))
    for n in range(n_prompt, n_prompt + 12):
        forms = replay.forms()
        assert forms is not None
        (logits,), _ = replay(forms, ids[:, n : n + 1])
        expected = model(ids[:, n : n + 1], caches[1])
        np.testing.assert_allclose(np.array(logits), np.array(expected), atol=2e-5)
    for one, other in zip(*caches, strict=True):
        for held, expected in zip(one.held(), other.held(), strict=True):
            np.testing.assert_allclose(np.array(held), np.array(expected), atol=2e-5)


@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("window", [None, 32])
def test_drafts_are_checked_in_quantized_caches(window: int | None, kv_bits: int) -> None:
    model = tiny_model(tiny_config(sliding_window=window, head_dim=32, n_layers=2))
    ids, n = random_ids(60), 28
    caches = [model.make_cache(kv_bits=kv_bits) for _ in range(2)]
    for cache in caches:
        for one in cache:
            one.allow_trim(4)
        model(mx.array([ids[:n]]), cache)
    replay = Replay(model, caches[0], Traces(model), n_kept=4)
    for length, kept in ((4, 4), (4, 1), (3, 3), (4, 2), (2, 2)):
        logits, _ = replayed(replay, ids[n : n + length])
        expected = np.array(model(mx.array([ids[n : n + length]]), caches[1]))
        np.testing.assert_allclose(logits, expected, atol=2e-5)
        for cache in caches:
            for one in cache:
                one.trim(length - kept)
        n += kept


def test_within_the_padding_of_a_batch_nothing_is_replayed() -> None:
    model = model_of("mistral")
    cache = model.make_cache(left_padding=[0, 6])
    replay = Replay(model, cache, Traces(model))
    model(mx.array([random_ids(5), random_ids(5)]), cache)
    assert replay.forms() is None
    model(mx.array([random_ids(1), random_ids(1)]), cache)
    assert replay.forms() is not None


def test_a_form_is_traced_once_until_others_take_its_place() -> None:
    model = model_of("mistral")
    for n_kept, lengths, expected in ((2, (1, 2, 1, 2, 1), 2), (1, (1, 1, 2, 2, 1), 3)):
        cache = model.make_cache()
        model(mx.array([random_ids(4)]), cache)
        traces = Traces(model)
        replay = Replay(model, cache, traces, n_kept=n_kept)
        told = [replayed(replay, random_ids(length))[1] for length in lengths]
        assert traces.n == told.count(False) == expected


def test_who_listens_to_a_router_is_told_of_replayed_passes_of_any_length() -> None:
    model, heard = model_of("mixtral"), []
    router = model.layers[1].block_sparse_moe
    cache = model.make_cache()
    model(mx.array([random_ids(4)]), cache)
    listener = heard.append
    router.on_route = listener
    replay = Replay(model, cache, Traces(model), n_kept=2)
    for length in (3, 1, 3):
        ids = random_ids(length)
        before = [one.offset for one in cache]
        replayed(replay, ids)
        for one in cache:
            one.trim(length)
        assert [one.offset for one in cache] == before
        model(mx.array([ids]), cache)
    assert router.on_route is listener
    chosen = [np.array(one) for one in heard]
    assert [one.shape[1] for one in chosen] == [3, 3, 1, 1, 3, 3]
    for of_replay, of_pass in zip(chosen[::2], chosen[1::2], strict=True):
        np.testing.assert_array_equal(of_replay, of_pass)


def test_caches_without_room_are_not_replayed() -> None:
    model = model_of("mistral")
    empty, full = model.make_cache(), model.make_cache(context=4)
    assert Replay(model, empty, Traces(model)).forms() is None
    model(mx.array([random_ids(4)]), full)
    assert Replay(model, full, Traces(model)).forms() is None
