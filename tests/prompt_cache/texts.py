"""Texts that a tiny model has read, and stores to keep them in."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import mlx.core as mx
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.cache import KVCache
from mlx_mistral.model import Model
from mlx_mistral.prompt_cache import PromptCacheStore

KEY = "k" * 64


@cache
def model_of(family: str) -> Model:
    return tiny_model(tiny_config(**{**FAMILIES[family], "head_dim": 32}))


def made(family: str, kv_bits: int | None = None) -> Callable[[], list[KVCache]]:
    return lambda: model_of(family).make_cache(kv_bits=kv_bits)


def read(family: str, ids: list[int], kv_bits: int | None = None) -> list[KVCache]:
    """Caches of a text."""
    layers = made(family, kv_bits)()
    mx.eval(model_of(family)(mx.array([ids]), layers))
    return layers


def next_logits(family: str, layers: list[KVCache], token: int = 7) -> list[float]:
    """What a model says after one more token."""
    out: list[float] = model_of(family)(mx.array([[token]]), layers)[0, -1].tolist()
    return out


def text(n: int, seed: int = 0) -> list[int]:
    return random_ids(n, seed=seed)


def store_in(folder: Path, **options: object) -> PromptCacheStore:
    options = {"limit_bytes": 1 << 30, **options}
    return PromptCacheStore(folder / "caches", **options)  # type: ignore[arg-type]


def files_of(folder: Path) -> list[Path]:
    return sorted((folder / "caches").glob("*.safetensors"))
