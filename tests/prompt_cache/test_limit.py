"""What is longest unused goes first, and nothing that another text builds on."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest
from prompt_cache.texts import KEY, files_of, made, read, store_in, text
from tiny import FAMILIES, LetterTokenizer, tiny_config, tiny_model

from mlx_mistral.prompt_cache import cache_key, default_limit_bytes
from mlx_mistral.prompt_cache.limit import AT_MOST


def size_of_one(folder: Path) -> int:
    store = store_in(folder / "one")
    store.save(KEY, text(100), read("mistral", text(100)))
    return store.nbytes


def test_the_longest_unused_goes_first(tmp_path: Path) -> None:
    ticks = count()
    limit = int(3.5 * size_of_one(tmp_path))
    store = store_in(tmp_path, limit_bytes=limit, clock=lambda: next(ticks))
    for seed in (1, 2, 3):
        store.save(KEY, text(100, seed), read("mistral", text(100, seed)))
    found = store.find(KEY, [*text(100, 1), 7])
    assert found is not None
    store.load(found, made("mistral"))
    store.save(KEY, text(100, 4), read("mistral", text(100, 4)))
    kept = [seed for seed in (1, 2, 3, 4) if store.find(KEY, [*text(100, seed), 7])]
    assert kept == [1, 3, 4]
    assert store.nbytes == sum(file.stat().st_size for file in files_of(tmp_path)) <= limit


def test_a_shared_beginning_outlives_its_branches(tmp_path: Path) -> None:
    ticks = count()
    stem = text(100)
    limit = int(1.9 * size_of_one(tmp_path))
    store = store_in(tmp_path, limit_bytes=limit, clock=lambda: next(ticks))
    store.save(KEY, stem, read("mistral", stem))
    for seed in range(1, 9):
        ids = [*stem, *text(30, seed)]
        assert store.save(KEY, ids, read("mistral", ids)) == 130
        found = store.find(KEY, [*ids, 1])
        assert found is not None
        assert found.tokens == 130
    assert store.nbytes <= limit


def test_what_is_larger_than_the_limit_is_not_held(tmp_path: Path) -> None:
    store = store_in(tmp_path, limit_bytes=1000)
    assert store.save(KEY, text(100), read("mistral", text(100))) == 0
    assert files_of(tmp_path) == []


def test_the_default_is_a_share_of_the_disk(tmp_path: Path) -> None:
    limit = default_limit_bytes(tmp_path / "not" / "there")
    assert 0 < limit <= AT_MOST
    assert default_limit_bytes(tmp_path, 10**18) == AT_MOST


class Other(LetterTokenizer):
    def pieces(self, token_ids: range) -> list[str]:
        return [f"{self.prefix}{one}" for one in token_ids]

    prefix = "<"


@pytest.fixture(scope="module")
def keys() -> list[str]:
    config = tiny_config(**FAMILIES["mistral"])
    other = Other()
    other.prefix = ">"
    a = tiny_model(config)
    return [
        cache_key(model, tokenizer, context=context, kv_bits=bits)  # type: ignore[arg-type]
        for model, tokenizer, context, bits in (
            (a, Other(), None, None),
            (tiny_model(config, seed=1), Other(), None, None),
            (a, other, None, None),
            (a, Other(), 512, None),
            (a, Other(), None, 8),
            (a, Other(), None, 4),
        )
    ]


def test_model_tokenizer_context_and_bits_keep_caches_apart(keys: list[str]) -> None:
    assert len(set(keys)) == len(keys)
    again = cache_key(
        tiny_model(tiny_config(**FAMILIES["mistral"])),
        Other(),  # type: ignore[arg-type]
        context=None,
        kv_bits=None,
    )
    assert again == keys[0]
