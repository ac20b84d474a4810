"""What texts have in common is held once, and every text finds its own keys again."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.cache import GrowingCache, KVCache, PrefixCache, RotatingCache, SharedPrefixes

WINDOW = 4
KINDS = {
    "full": [None, None],
    "mixed": [None, WINDOW],
    "windowed": [WINDOW, 3 * WINDOW],
    "wide": [60, 60],
}


def new(kind: str) -> PrefixCache:
    layers: list[KVCache] = [
        GrowingCache() if window is None else RotatingCache(window) for window in KINDS[kind]
    ]
    return PrefixCache(layers, max_places=4)


def feed(text: PrefixCache, ids: list[int], steps: random.Random) -> None:
    """Stores ids in place of keys, as if a model had read them."""
    while (held := text.layers[0].offset) < len(ids):
        rows = mx.array(ids[held : held + steps.randint(1, 9)], mx.float32)[None, None, :, None]
        for layer in text.layers:
            layer.update_and_fetch(rows, -rows)
        text.keep_place()


def check(text: PrefixCache, ids: list[int]) -> None:
    """Each layer holds what later tokens will see of these ids."""
    for layer in text.layers:
        assert layer.offset == len(ids)
        n_seen = len(ids) if layer.window is None else min(len(ids), layer.window - 1)
        keys, values = [rows.flatten().tolist() for rows in layer.held()] or ([], [])
        seen = [float(one) for one in ids[len(ids) - n_seen :]]
        assert keys[len(keys) - n_seen :] == seen
        assert values[len(values) - n_seen :] == [-one for one in seen]


def go_on(shared: SharedPrefixes, text: PrefixCache, ids: list[int], dice: random.Random) -> int:
    reused = shared.begin(text, ids)
    check(text, ids[:reused])
    feed(text, ids, dice)
    check(text, ids)
    shared.end(text)
    return reused


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_any_tree_of_texts_finds_its_keys(kind: str, seed: int) -> None:
    dice = random.Random(seed)
    shared = SharedPrefixes(min_tokens=dice.choice([1, 1, 4]))
    texts = [new(kind)]
    for _ in range(12):
        ids = list(dice.choice(texts).ids)
        ids = ids[: dice.choice([len(ids), dice.randint(0, len(ids))])]
        ids += [dice.randrange(3) for _ in range(dice.randint(1, 20))]
        match dice.choice(["new", "same", "same", "close", "release", "interleaved"]):
            case "new":
                texts.append(new(kind))
            case "close" if len(texts) > 1:
                texts.remove(dice.choice(texts))
            case "release":
                shared.release()
                assert shared.nbytes == 0
            case "interleaved" if len(texts) > 1:
                one, other = dice.sample(texts, 2)
                held = [*one.ids, 1]
                shared.begin(one, held)
                feed(one, held, dice)
                go_on(shared, other, ids, dice)
                check(one, held)
                shared.end(one)
                continue
        go_on(shared, dice.choice(texts), ids, dice)


def test_a_text_takes_over_the_longest_beginning_and_what_parts_is_its_own() -> None:
    dice, shared = random.Random(0), SharedPrefixes(min_tokens=4)
    texts = [new("full") for _ in range(4)]
    stem = list(range(100, 180))
    expected = [0, 80, 90, 80]
    for i, (text, reused) in enumerate(zip(texts, expected, strict=True)):
        branch = [7] * 10 if i in (1, 2) else [50 + i] * 10
        assert go_on(shared, text, [*stem, *branch, i], dice) == reused
    token_bytes = 2 * 2 * 4
    # The stem, the branch that two have, two branches of their own, and an end each.
    assert shared.nbytes == (80 + 10 + 2 * 10 + 4) * token_bytes


def test_closed_texts_free_what_only_they_held() -> None:
    dice, shared = random.Random(0), SharedPrefixes(min_tokens=4)
    stem = list(range(40))
    kept, closed = new("full"), new("full")
    go_on(shared, closed, [*stem, *[1] * 50], dice)
    go_on(shared, kept, [*stem, *[2] * 5], dice)
    del closed
    assert shared.nbytes == (40 + 5) * 2 * 2 * 4


def test_a_copy_that_memory_has_no_room_for_is_not_made() -> None:
    dice, shared = random.Random(0), SharedPrefixes(min_tokens=4)
    one, other, third = new("full"), new("full"), new("full")
    stem = list(range(40))
    go_on(shared, one, stem, dice)
    go_on(shared, other, [*stem, 1], dice)
    assert shared.begin(third, [*stem, 2], budget_bytes=0) == 0
    assert shared.nbytes == 0
    feed(third, [*stem, 2], dice)
    shared.end(third)
    assert go_on(shared, one, [*stem, 3], dice) == 40
