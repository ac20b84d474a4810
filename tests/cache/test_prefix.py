"""Which moments of a text are kept to go back to, and what that costs."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_mistral.cache import GrowingCache, KVCache, PrefixCache, RotatingCache
from mlx_mistral.cache.prefix import common_prefix


def feed(prefix: PrefixCache, n: int) -> None:
    held = prefix.layers[0].offset
    for layer in prefix.layers:
        layer.update_and_fetch(*[mx.arange(held, held + n).reshape(1, 1, n, 1) * 1.0] * 2)


def read(prefix: PrefixCache, ids: list[int], step: int = 5) -> int:
    reused = prefix.begin(ids)
    while (held := prefix.layers[0].offset) < len(ids):
        feed(prefix, min(step, len(ids) - held))
        prefix.keep_place()
    return reused


def windowed() -> list[KVCache]:
    return [RotatingCache(4), RotatingCache(4)]


@pytest.mark.parametrize("n", [1, 2, 5])
def test_no_more_places_are_kept_than_allowed(n: int) -> None:
    prefix = PrefixCache(windowed(), max_places=n)
    read(prefix, list(range(100)))
    assert prefix.n_places == n


def test_two_places_are_kept_whatever_they_take_and_more_where_they_fit() -> None:
    ring_bytes = 2 * 2 * 4 * 4
    for allowed, kept in ((0, 2), (3 * ring_bytes, 3), (3 * ring_bytes + 1, 3), (1 << 30, 16)):
        prefix = PrefixCache(windowed(), max_places=16, max_place_bytes=allowed)
        read(prefix, list(range(100)))
        assert prefix.n_places == kept


def test_places_lie_close_near_the_end_and_far_apart_before() -> None:
    prefix, ids = PrefixCache(windowed(), max_places=8), list(range(1000))
    read(prefix, ids)
    for back in (1, 3, 6, 12, 25, 50, 100, 200, 400):
        other = [*ids[: 1000 - 5 * back], -1]
        kept = PrefixCache(windowed(), max_places=8)
        read(kept, ids)
        reused = kept.begin(other)
        assert 1000 - 5 * back - reused <= 15 * back


def test_a_moment_is_kept_once() -> None:
    prefix = PrefixCache(windowed(), max_places=8)
    read(prefix, list(range(20)), step=20)
    prefix.keep_place()
    prefix.keep_place()
    assert prefix.n_places == 1


def test_layers_that_keep_everything_need_no_places() -> None:
    prefix = PrefixCache([GrowingCache()], max_places=8)
    read(prefix, list(range(50)))
    assert prefix.n_places == 0
    assert prefix.begin([*range(31), -1]) == 31


def test_places_that_a_growing_layer_has_overwritten_are_dropped() -> None:
    prefix = PrefixCache([RotatingCache(4), GrowingCache()], max_places=16)
    read(prefix, list(range(50)))
    assert prefix.n_places == 10
    assert read(prefix, [*range(20), *range(100, 110)], step=10) == 20
    assert prefix.n_places == 5


def test_going_back_restores_what_the_rings_held() -> None:
    prefix = PrefixCache(windowed(), max_places=16)
    read(prefix, list(range(40)))
    assert prefix.begin([*range(25), -1]) == 25
    held = prefix.layers[0].keys
    assert held is not None
    assert sorted(held.flatten().tolist()) == [21, 22, 23, 24]


def test_a_common_prefix_is_counted_to_the_first_difference() -> None:
    assert common_prefix([], [1]) == 0
    assert common_prefix([1, 2, 3], [1, 2]) == 2
    assert common_prefix([1, 2, 3], [1, 9, 3]) == 1
