"""A reply in the window stays inside the model's budget, and each kind of step is noted."""

from __future__ import annotations

import gc

import mlx.core as mx

from mlx_mistral.live.events import Finished, Noted
from tests.live.live_models import asked, live, make, of, user
from tests.memory.test_governor import CACHES, spare_for
from tests.memory.test_plan import scaled_config
from tests.tiny import tiny_model

STEPS = ("smaller chunks", "kept for reuse", "8 bits", "4 bits", "the reply ends")


def test_each_kind_of_step_is_noted_once_and_mlx_has_its_limits_back() -> None:
    model = tiny_model(scaled_config(**CACHES))
    target = live(model)
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    before = mx.set_cache_limit(1 << 20)
    try:
        spare_bytes, end = spare_for(model, 100)
        model.budget_bytes = mx.get_active_memory() + spare_bytes
        mx.reset_peak_memory()
        told = make(target, asked(user("x" * 97), max_tokens=2 * end))
        assert mx.get_peak_memory() <= model.budget_bytes
        assert mx.set_cache_limit(before) == 1 << 20
    finally:
        mx.set_cache_limit(before)
    lines = [one.line for one in of(Noted, told)]
    assert [sum(step in line for line in lines) for step in STEPS] == [1] * len(STEPS)
    assert of(Finished, told)[0].reason == "length"
