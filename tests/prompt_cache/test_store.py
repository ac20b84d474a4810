"""A text that was read is found again by any text that begins like it, to the bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prompt_cache.texts import KEY, files_of, made, next_logits, read, store_in, text
from tiny import random_ids

from mlx_mistral.cache.prefix import common_prefix
from mlx_mistral.errors import CacheError


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
@pytest.mark.parametrize("family", ["mistral", "mistral-window", "ministral"])
@pytest.mark.parametrize("n", [5, 90])
def test_a_text_goes_on_from_disk_as_from_memory(
    tmp_path: Path, family: str, kv_bits: int | None, n: int
) -> None:
    ids, store = text(n), store_in(tmp_path, segment_bytes=20_000)
    layers = read(family, ids, kv_bits)
    assert store.save(KEY, ids, layers) == n
    found = store.find(KEY, [*ids, 7])
    assert found is not None
    assert found.tokens == n
    loaded = store.load(found, made(family, kv_bits))
    assert loaded is not None
    again, held = loaded
    assert held == ids
    assert next_logits(family, again) == next_logits(family, layers)


@pytest.mark.parametrize("kv_bits", [None, 4])
def test_a_text_that_begins_alike_takes_only_the_beginning(
    tmp_path: Path, kv_bits: int | None
) -> None:
    store, ids = store_in(tmp_path), text(200)
    store.save(KEY, ids, read("mistral", ids, kv_bits))
    other = [*ids[:130], *text(40, seed=1)]
    other[130] = (ids[130] + 1) % 60
    found = store.find(KEY, other)
    assert found is not None
    assert found.tokens == 130
    loaded = store.load(found, made("mistral", kv_bits))
    assert loaded is not None
    expected = read("mistral", ids[:130], kv_bits)
    assert loaded[1] == ids[:130]
    got = next_logits("mistral", loaded[0])
    assert np.allclose(got, next_logits("mistral", expected), atol=1e-4)


def test_the_last_token_is_left_to_be_read(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))
    found = store.find(KEY, ids)
    assert found is not None
    assert found.tokens == 79
    ring = read("mistral-window", ids)
    store.save("w", ids, ring)
    assert store.find("w", ids) is None


def test_a_ring_that_has_wrapped_is_found_from_its_end_alone(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(60)
    store.save(KEY, ids, read("mistral-window", ids))
    assert store.find(KEY, [*ids[:50], 1, 2]) is None
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    assert found.tokens == 60


def test_of_the_ends_of_one_growing_ring_two_are_kept(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(90)
    for n in (30, 50, 70, 90):
        store.save(KEY, ids[:n], read("mistral-window", ids[:n]))
    assert [len(each) for each in store.entries()] == [70, 90]
    assert len(files_of(tmp_path)) == 2


def test_another_key_finds_nothing(tmp_path: Path) -> None:
    store, ids = store_in(tmp_path), text(80)
    store.save(KEY, ids, read("mistral", ids))
    assert store.find("other", [*ids, 1]) is None


def test_a_shared_beginning_is_held_once(tmp_path: Path) -> None:
    stem, store = text(400), store_in(tmp_path)
    alone = store_in(tmp_path / "alone")
    store.save(KEY, stem, read("mistral", stem))
    alone.save(KEY, stem, read("mistral", stem))
    for seed in range(1, 6):
        ids = [*stem, *text(20, seed)]
        store.save(KEY, ids, read("mistral", ids))
    assert store.nbytes < 1.5 * alone.nbytes
    for seed in range(1, 6):
        found = store.find(KEY, [*stem, *text(20, seed), 7])
        assert found is not None
        assert found.tokens == 420


def test_a_conversation_saved_after_each_reply_is_in_few_files(tmp_path: Path) -> None:
    ids, store = text(300), store_in(tmp_path)
    whole = read("mistral", ids)
    for n in range(50, 301, 50):
        assert store.save(KEY, ids[:n], read("mistral", ids[:n])) == n
    files = files_of(tmp_path)
    assert len(files) <= 3
    assert sum(file.stat().st_size for file in files) == store.nbytes
    found = store.find(KEY, [*ids, 7])
    assert found is not None
    loaded = store.load(found, made("mistral"))
    assert loaded is not None
    assert np.allclose(next_logits("mistral", loaded[0]), next_logits("mistral", whole), atol=1e-4)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32))
def test_any_tree_of_texts_comes_back(tmp_path: Path, seed: int) -> None:
    """Against the plain rule: the longest common prefix of all that was saved."""
    dice = random.Random(seed)
    store = store_in(tmp_path / str(seed), segment_bytes=60_000)
    saved: list[list[int]] = [[]]
    for _ in range(5):
        stem = dice.choice(saved)
        ids = [
            *stem[: dice.randint(0, len(stem))],
            *random_ids(dice.randint(1, 150), seed=dice.randint(0, 99)),
        ]
        store.save(KEY, ids, read("mistral", ids))
        saved.append(ids)
    for ids in saved[1:]:
        asked = [*ids[: dice.randint(1, len(ids))], dice.randrange(61)]
        found = store.find(KEY, asked)
        longest = max(common_prefix(asked[:-1], one) for one in saved)
        assert found is not None
        assert found.tokens == longest
        loaded = store.load(found, made("mistral"))
        assert loaded is not None
        layers, held = loaded
        assert held == asked[:longest]
        expected = next_logits("mistral", read("mistral", held))
        assert np.allclose(next_logits("mistral", layers), expected, atol=1e-4)


def test_nothing_is_saved_of_nothing(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    assert store.save(KEY, [], made("mistral")()) == 0
    assert store.save(KEY, [1, 2], read("mistral", [1, 2, 3])) == 0
    assert store.entries() == []


def test_saving_ends_between_two_files(tmp_path: Path) -> None:
    ids, store, asked = text(400), store_in(tmp_path, segment_bytes=1), []

    def go_on() -> bool:
        asked.append(True)
        return len(asked) <= 2

    done = store.save(KEY, ids, read("mistral", ids), go_on=go_on)
    assert 0 < done < 400
    found = store.find(KEY, [*ids, 1])
    assert found is not None
    assert found.tokens == done


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "caches").write_text("a file")
    with pytest.raises(CacheError, match="check the folder"):
        store_in(tmp_path).save(KEY, [1, 2, 3], read("mistral", [1, 2, 3]))
