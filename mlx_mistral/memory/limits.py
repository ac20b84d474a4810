"""MLX's own limits, while a model is at work: set for a budget, then put back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from mlx_mistral.model import Model

from .cache import cache_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    memory: int
    cache: int
    wired: int


_at_work: list[_Limits] = []
"""Of texts under way, the latest last."""
_before: list[_Limits] = []
"""What held before the first of them."""


@contextmanager
def limits_of(budget_bytes: int, *, wired_bytes: int, mlx: Any = mx) -> Iterator[None]:
    """Inside, MLX waits where it would exceed the budget, and keeps less for reuse.

    On Metal so many bytes are wired, which shall be weights and planned cache and no more: what
    is wired is lost to everything else. Texts may begin and end in any order: the latest that is
    under way has its limits, and after the last one the old ones hold again.
    mlx: stands in for `mlx.core`, in tests.
    """
    own = _Limits(memory=budget_bytes, cache=max(0, budget_bytes - wired_bytes), wired=wired_bytes)
    replaced = _set(own, mlx)
    if not _at_work:
        _before[:] = [replaced]
    # What is kept for reuse may be less than the budget allows, never more than before.
    mlx.set_cache_limit(min(own.cache, _before[0].cache))
    _at_work.append(own)
    try:
        yield
    finally:
        _at_work[:] = [one for one in _at_work if one is not own]
        _set(_at_work[-1] if _at_work else _before[0], mlx)


@contextmanager
def model_limits(model: Model, n_tokens: int) -> Iterator[None]:
    """MLX's own limits for a text of at most n tokens, of a model that has a budget."""
    if model.budget_bytes is None:
        yield
        return
    planned = mx.get_active_memory() + cache_bytes(model.config, n_tokens, model.dtype.size)
    with limits_of(model.budget_bytes, wired_bytes=min(planned, model.budget_bytes)):
        yield


def _set(limits: _Limits, mlx: Any) -> _Limits:
    """Returns what held before."""
    wired = 0
    if mlx.metal.is_available():
        most = int(mlx.device_info().get("max_recommended_working_set_size", limits.wired))
        wired = mlx.set_wired_limit(min(limits.wired, most))
    return _Limits(
        memory=mlx.set_memory_limit(limits.memory),
        cache=mlx.set_cache_limit(limits.cache),
        wired=wired,
    )
