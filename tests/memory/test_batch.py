"""The caches of a batch take what is planned for them."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.generation import BatchGenerator
from mlx_mistral.memory.batch import batch_cache_bytes, largest_batch


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("changes", [{}, {"sliding_window": 40}, FAMILIES["ministral"]])
def test_a_batch_holds_what_is_planned(changes: dict[str, Any], kv_bits: int | None) -> None:
    config = tiny_config(**{**changes, "head_dim": 32, "n_heads": 2, "n_kv_heads": 1})
    batch = BatchGenerator(tiny_model(config), kv_bits=kv_bits)
    for n in (70, 64, 55):
        batch.insert(random_ids(n, seed=n), max_tokens=4)
    batch.next()
    assert batch.nbytes == batch_cache_bytes(config, 3, 74, 4, kv_bits)


def test_the_largest_batch_is_within_the_budget() -> None:
    config = tiny_config()
    one = batch_cache_bytes(config, 1, 1000, 2)
    for n in (0, 1, 7):
        with_a_layer_more = n * one * (config.n_layers + 1) // config.n_layers
        assert largest_batch(with_a_layer_more, config, 1000, 2) == n
        assert largest_batch(with_a_layer_more + one, config, 1000, 2) == n
