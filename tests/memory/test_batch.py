"""The caches of a batch take what is planned for them."""

from __future__ import annotations

from typing import Any

import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.generation import BatchGenerator
from mlx_mistral.memory.batch import batch_cache_bytes


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("changes", [{}, {"sliding_window": 40}, FAMILIES["ministral"]])
def test_a_batch_holds_what_is_planned(changes: dict[str, Any], kv_bits: int | None) -> None:
    config = tiny_config(**{**changes, "head_dim": 32, "n_heads": 2, "n_kv_heads": 1})
    batch = BatchGenerator(tiny_model(config), kv_bits=kv_bits)
    for n in (70, 64, 55):
        batch.insert(random_ids(n, seed=n), max_tokens=4)
    batch.next()
    assert batch.nbytes == batch_cache_bytes(config, 3, 74, 4, kv_bits)
