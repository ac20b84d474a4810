from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_mistral.backend.scratch import METAL
from mlx_mistral.config import ModelConfig
from mlx_mistral.config.sizes import parse_size
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.loading import load
from mlx_mistral.memory import ModelNeeds
from mlx_mistral.memory.admission import check_fits
from mlx_mistral.memory.limits import limits_of
from tests.memory.paper import HF_7B, on_paper


class Metal:
    """What `mlx.core` is on a Mac, as far as limits go."""

    def __init__(self) -> None:
        self.now = {"memory": 100, "cache": 70, "wired": 5}
        self.metal = SimpleNamespace(is_available=lambda: True)

    def device_info(self) -> dict[str, Any]:
        return {"max_recommended_working_set_size": 60}

    def _set(self, name: str, value: int) -> int:
        before, self.now[name] = self.now[name], value
        return before

    def set_memory_limit(self, n: int) -> int:
        return self._set("memory", n)

    def set_cache_limit(self, n: int) -> int:
        return self._set("cache", n)

    def set_wired_limit(self, n: int) -> int:
        assert n <= 60, "Metal refuses more"
        return self._set("wired", n)


def test_only_what_is_planned_is_wired_and_the_old_limits_come_back() -> None:
    mac = Metal()
    before = dict(mac.now)
    with limits_of(90, wired_bytes=40, mlx=mac):
        assert mac.now == {"memory": 90, "cache": 50, "wired": 40}
    assert mac.now == before


def test_no_more_is_wired_than_metal_recommends_and_errors_restore_too() -> None:
    mac = Metal()
    before = dict(mac.now)
    with contextlib.suppress(KeyError), limits_of(90, wired_bytes=80, mlx=mac):
        assert mac.now == {"memory": 90, "cache": 10, "wired": 60}
        raise KeyError
    assert mac.now == before


def test_more_is_never_kept_for_reuse_than_before() -> None:
    mac = Metal()
    with limits_of(1000, wired_bytes=10, mlx=mac):
        assert mac.now["cache"] == 70


def test_texts_that_end_in_another_order_leave_the_old_limits() -> None:
    mac = Metal()
    before = dict(mac.now)
    first, second = limits_of(90, wired_bytes=40, mlx=mac), limits_of(80, wired_bytes=30, mlx=mac)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert mac.now["memory"] == 80
    second.__exit__(None, None, None)
    assert mac.now == before


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("16GB", 16 * 10**9), ("16 GiB", 16 << 30), ("1.5kb", 1500), (7, 7), ("900MB", 9 * 10**8)],
)
def test_a_size_is_read(text: str | int, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "-5", -5, 0, "0GB", "1e99", "16 XB", "9" * 19, "9999999TB", True]
)
def test_an_absurd_size_is_one_line(text: str | int) -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


def needs(bits: int | None) -> ModelNeeds:
    return ModelNeeds.of(on_paper(HF_7B, bits), dtype="bfloat16", scratch=METAL)


def test_what_cannot_fit_is_refused_with_the_plan_and_what_would() -> None:
    with pytest.raises(
        MemoryBudgetError, match=r"weights 14\.\d+ GB.*convert big big-8bit --bits 8"
    ):
        check_fits(needs(None), "big", 10 * 10**9)
    with pytest.raises(MemoryBudgetError, match=r"--context \d+ --kv-bits 4 fit"):
        check_fits(needs(4), "small", 48 * 10**8, context=32768)
    with pytest.raises(MemoryBudgetError, match=r"--memory \d+ would do"):
        check_fits(needs(4), "small", 10**9)
    check_fits(needs(4), "small", 48 * 10**8)


def test_advice_of_a_refusal_is_accepted() -> None:
    with pytest.raises(MemoryBudgetError) as caught:
        check_fits(needs(4), "small", 48 * 10**8, context=32768)
    context = int(str(caught.value).partition("--context ")[2].split()[0])
    check_fits(needs(4), "small", 48 * 10**8, context=context)
    with pytest.raises(MemoryBudgetError):
        check_fits(needs(4), "small", 48 * 10**8, context=context + 256)


def test_python_loads_within_a_budget_or_not_at_all() -> None:
    model, _ = load("demo", memory="60MB")
    assert model.budget_bytes == 60 * 10**6
    with pytest.raises(MemoryBudgetError, match="demo needs"):
        load("demo", memory="1MB")
    assert load("demo")[0].budget_bytes is not None
    assert isinstance(model.config, ModelConfig)
