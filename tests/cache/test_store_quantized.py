"""Quantized caches on disk: back to the bit, to caches of the same bits alone."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest
from tiny import random_ids, tiny_config, tiny_model

from mlx_mistral.cache import load_cache, save_cache
from mlx_mistral.errors import CacheError


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("back", [0, 1])
def test_a_reloaded_cache_goes_on_to_the_bit(
    tmp_path: Path, bits: int, window: int | None, back: int
) -> None:
    model = tiny_model(tiny_config(n_layers=2, head_dim=32, sliding_window=window))
    cache, path, ids = model.make_cache(kv_bits=bits), tmp_path / "c.safetensors", random_ids(20)
    model(mx.array([ids]), cache)
    for one in cache:
        one.trim(back)
    save_cache(path, cache, fingerprint="x", token_ids=ids)
    again = model.make_cache(kv_bits=bits)
    assert load_cache(path, again, fingerprint="x") == ids
    assert [one.can_trim(1) for one in again] == [one.can_trim(1) for one in cache]
    for token in random_ids(9, seed=1):
        expected, out = (model(mx.array([[token]]), one) for one in (cache, again))
        assert mx.array_equal(out, expected)
    for others in (None, 12 - bits):
        with pytest.raises(CacheError, match="kv_bits"):
            load_cache(path, model.make_cache(kv_bits=others), fingerprint="x")


@pytest.mark.parametrize("name", ["0.keys.weight", "0.values.scales", "1.keys.biases"])
@pytest.mark.parametrize("change", ["missing", "narrower", "other type"])
def test_damaged_parts_are_refused(tmp_path: Path, name: str, change: str) -> None:
    model = tiny_model(tiny_config(n_layers=2, head_dim=64))
    cache, path = model.make_cache(kv_bits=8), tmp_path / "c.safetensors"
    model(mx.array([random_ids(5)]), cache)
    save_cache(path, cache, fingerprint="x")
    arrays, metadata = mx.load(str(path), return_metadata=True)  # type: ignore[misc]
    mx.eval(arrays)
    part = arrays.pop(name)  # type: ignore[union-attr]
    if change != "missing":
        arrays[name] = part[..., :0] if change == "narrower" else part.astype(mx.int16)  # type: ignore[index]
    mx.save_safetensors(str(path), arrays, metadata)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match=r"damaged|not a cache file"):
        load_cache(path, model.make_cache(kv_bits=8), fingerprint="x")
