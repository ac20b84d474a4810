"""Saved caches come back exactly, to their own model only, and damage is told."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.cache import KVCache, load_cache, save_cache
from mlx_mistral.cache.store import _FORMAT
from mlx_mistral.errors import CacheError
from mlx_mistral.model import Model


def model_of(family: str, seed: int = 0) -> Model:
    return tiny_model(tiny_config(**FAMILIES[family]), seed)


def filled(model: Model, ids: list[int]) -> list[KVCache]:
    cache = model.make_cache()
    mx.eval(model(mx.array([ids]), cache))
    return cache


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Model, Path, list[int]]:
    model, ids = model_of("ministral"), random_ids(20)
    path = tmp_path / "chat.safetensors"
    save_cache(path, filled(model, ids), fingerprint=model.fingerprint(), token_ids=ids)
    return model, path, ids


@pytest.mark.parametrize("family", ["mistral", "mistral-window", "ministral"])
@pytest.mark.parametrize("n", [3, 20, 300])
def test_a_reloaded_cache_goes_on_to_the_bit(tmp_path: Path, family: str, n: int) -> None:
    model, ids, after = model_of(family), random_ids(n), random_ids(9, seed=1)
    cache, path = filled(model, ids), tmp_path / "cache.safetensors"
    save_cache(path, cache, fingerprint=model.fingerprint(), token_ids=ids)
    again = model.make_cache()
    assert load_cache(path, again, fingerprint=model.fingerprint()) == ids
    for token in after:
        expected, out = (model(mx.array([[token]]), one) for one in (cache, again))
        assert mx.array_equal(out, expected)
    assert [one.can_trim(12) for one in again] == [one.can_trim(12) for one in cache]


def test_only_what_is_used_is_written(tmp_path: Path) -> None:
    model = model_of("mistral")
    save_cache(tmp_path / "c.safetensors", filled(model, [1, 2, 3]), fingerprint="x")
    assert (tmp_path / "c.safetensors").stat().st_size < 4096
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_another_model_is_refused(saved: tuple[Model, Path, list[int]]) -> None:
    _, path, _ = saved
    other = model_of("ministral", seed=1)
    cache = other.make_cache()
    with pytest.raises(CacheError, match="another model"):
        load_cache(path, cache, fingerprint=other.fingerprint())
    assert cache[0].empty()


def test_a_fingerprint_is_the_weights_own() -> None:
    first, same, other = model_of("mistral"), model_of("mistral"), model_of("mistral", seed=1)
    assert first.fingerprint() == same.fingerprint() != other.fingerprint()
    assert model_of("mistral-window").fingerprint() != first.fingerprint()


def test_another_context_is_refused(saved: tuple[Model, Path, list[int]]) -> None:
    model, path, _ = saved
    with pytest.raises(CacheError, match="another context"):
        load_cache(path, model.make_cache(context=50), fingerprint=model.fingerprint())


@pytest.mark.parametrize("keep", [0, 7, 100, 2000])
def test_a_truncated_file_is_refused(saved: tuple[Model, Path, list[int]], keep: int) -> None:
    model, path, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CacheError, match="not a cache file"):
        load_cache(path, model.make_cache(), fingerprint=model.fingerprint())


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model, path = model_of("mistral"), tmp_path / "weights.safetensors"
    with pytest.raises(CacheError, match="not a cache file"):
        load_cache(path, model.make_cache(), fingerprint=model.fingerprint())
    mx.save_safetensors(str(path), {"0.keys": mx.zeros((1, 2, 3, 4))}, {})
    with pytest.raises(CacheError, match="not a cache file of this version"):
        load_cache(path, model.make_cache(), fingerprint=model.fingerprint())


@pytest.mark.parametrize(
    "layers",
    [
        "",
        "[",
        "[1]",
        "{}",
        '[{"window": null, "limit": null, "kv_bits": null, "offset": "3"}]',
        "[" * 9999,
    ],
)
def test_a_malformed_description_is_refused(tmp_path: Path, layers: str) -> None:
    path = tmp_path / "c.safetensors"
    metadata = {"format": _FORMAT, "fingerprint": "x", "layers": layers}
    mx.save_safetensors(str(path), {"0.keys": mx.zeros((1, 2, 3, 4))}, metadata)
    with pytest.raises(CacheError, match="its description is"):
        load_cache(path, model_of("mistral").make_cache(), fingerprint="x")


@pytest.mark.parametrize(
    "tensors",
    [
        {},
        {"0.keys": (1, 2, 3, 8), "0.values": (1, 2, 4, 8)},
        {"0.keys": (1, 2, 3, 8), "0.values": (1, 3, 3, 8)},
        {"0.keys": (2, 3, 8), "0.values": (2, 3, 8)},
    ],
)
def test_buffers_of_a_wrong_shape_are_refused(
    tmp_path: Path, tensors: dict[str, tuple[int, ...]]
) -> None:
    model = tiny_model(tiny_config(n_layers=1))
    cache = filled(model, [1, 2, 3])
    path = tmp_path / "c.safetensors"
    save_cache(path, cache, fingerprint="x")
    _, metadata = mx.load(str(path), return_metadata=True)  # type: ignore[misc]
    arrays = {name: mx.zeros(shape) for name, shape in tensors.items()}
    mx.save_safetensors(str(path), {**arrays, "other": mx.zeros(1)}, metadata)  # type: ignore[arg-type]
    with pytest.raises(CacheError, match="shape"):
        load_cache(path, model.make_cache(), fingerprint="x")


def test_a_bit_that_flips_anywhere_is_told(saved: tuple[Model, Path, list[int]]) -> None:
    model, path, _ = saved
    raw, dice = path.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(raw)
        damaged[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
        path.write_bytes(damaged)
        cache = model.make_cache()
        with pytest.raises(CacheError) as raised:
            load_cache(path, cache, fingerprint=model.fingerprint())
        assert "\n" not in str(raised.value)
        assert cache[0].empty()


def test_a_file_that_shrinks_while_it_is_read_is_told(
    saved: tuple[Model, Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path, _ = saved
    plain = mx.load

    def shrinking(*args: object, **options: object) -> object:
        loaded = plain(*args, **options)  # type: ignore[arg-type]
        os.truncate(path, path.stat().st_size // 2)
        return loaded

    monkeypatch.setattr(mx, "load", shrinking)
    cache = model.make_cache()
    with pytest.raises(CacheError, match="cannot be read"):
        load_cache(path, cache, fingerprint=model.fingerprint())
    assert cache[0].empty()


def test_a_full_disk_is_told_and_leaves_the_file_that_is_there(
    saved: tuple[Model, Path, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path, ids = saved

    def full(name: str, *rest: object) -> None:
        Path(name).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(CacheError, match="No space left on device"):
        save_cache(path, filled(model, [*ids, 1]), fingerprint=model.fingerprint())
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert load_cache(path, model.make_cache(), fingerprint=model.fingerprint()) == ids


def test_an_empty_or_padded_cache_is_not_saved(tmp_path: Path) -> None:
    model = model_of("mistral")
    with pytest.raises(CacheError, match="empty"):
        save_cache(tmp_path / "c", model.make_cache(), fingerprint="x")
    with pytest.raises(CacheError, match="padded"):
        save_cache(tmp_path / "c", model.make_cache(left_padding=[0, 2]), fingerprint="x")


def test_an_unwritable_folder_is_told(tmp_path: Path) -> None:
    model = model_of("mistral")
    with pytest.raises(CacheError, match="cannot write"):
        save_cache(tmp_path / "none" / "c", filled(model, [1]), fingerprint="x")


def test_values_survive_in_half_precision(tmp_path: Path) -> None:
    model = model_of("mistral-window")
    model.set_dtype(mx.bfloat16)
    cache, path = filled(model, random_ids(9)), tmp_path / "c.safetensors"
    save_cache(path, cache, fingerprint="x")
    again = model.make_cache()
    load_cache(path, again, fingerprint="x")
    assert again[0].keys is not None
    assert cache[0].keys is not None
    assert again[0].keys.dtype == mx.bfloat16
    held = np.array(cache[0].keys[..., :6, :].astype(mx.float32))
    assert np.array_equal(np.array(again[0].keys.astype(mx.float32)), held)
