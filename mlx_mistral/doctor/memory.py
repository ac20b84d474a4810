"""Checks of memory: the plan against the measured peak, and copies of the cache."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial

import mlx.core as mx

from mlx_mistral.backend.select import use_backend
from mlx_mistral.checkpoint import load_model, read_folder
from mlx_mistral.checkpoint.dtype import dtype_name
from mlx_mistral.completion import stream_generate
from mlx_mistral.config import ModelConfig
from mlx_mistral.demo import model_path
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.memory import ModelNeeds
from mlx_mistral.model import Model, fuse

from .check import REPORT, Measurement, Probe
from .setup import Setup

PROMPT_TOKENS, REPLY_TOKENS = 700, 24
CACHE_TOKENS = 8200
"""Cache of a layer: 32 MB in bfloat16, 64 MB in float32. Far from the next growth of the buffer."""
WARM_UP, STEPS = 3, 9
COPY_SHARE = 4
"""A decode step may allocate a quarter of a layer's cache; a copy would take all of it."""
NARROW = {
    "dim": 64, "n_layers": 2, "head_dim": 128, "hidden_dim": 64, "n_heads": 8, "n_kv_heads": 8,
    "norm_eps": 1e-5, "vocab_size": 64,
}  # fmt: skip
"""A model whose caches are large and whose weights are small."""


def memory_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of what MLX allocates."""
    yield Probe(
        name=setup.name("memory plan, demo"),
        measure=partial(plan_against_peak, setup),
        advice=f"leave more memory free than `mlx-mistral fit` says; {REPORT}",
    )
    for text, window in (("growing", None), ("rotating", CACHE_TOKENS)):
        yield Probe(
            name=setup.name(f"decode steps copy no {text} cache"),
            measure=partial(copied_bytes, setup, window),
            advice=f"long contexts are slow on this machine; {REPORT}",
        )


def plan_against_peak(setup: Setup) -> Measurement:
    """Compare the memory plan with the peak of loading the demo, prefill and decode."""
    gc.collect()
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    with use_backend(setup.backend):
        model = load_model(model_path(), dtype=setup.dtype)
        ids = [10 + n % 200 for n in range(PROMPT_TOKENS)]
        for _ in stream_generate(model, None, ids, max_tokens=REPLY_TOKENS, temp=0.0):
            pass
    peak = mx.get_peak_memory() - before
    needs = ModelNeeds.of(
        read_folder(model_path()), dtype=dtype_name(setup.dtype), scratch=setup.backend.scratch
    )
    plan = needs.plan(PROMPT_TOKENS + REPLY_TOKENS, budget_bytes=0)
    return Measurement.at_most_bytes(peak, plan.total_bytes)


def copied_bytes(setup: Setup, window: int | None) -> Measurement:
    """Measure the memory that decode steps allocate behind a long context."""
    config = ModelConfig.from_params(NARROW | ({"sliding_window": window} if window else {}))
    with use_backend(setup.backend):
        model = Model(config)
        model.set_dtype(setup.dtype)
        fuse(model)
        mx.eval(model.parameters())
        cache = model.make_cache()
        shape = (1, config.n_kv_heads, CACHE_TOKENS, config.head_dim)
        for layer_cache in cache:
            layer_cache.update_and_fetch(mx.zeros(shape, setup.dtype), mx.zeros(shape, setup.dtype))
            mx.eval(layer_cache.state)
        steps = generate_ids(
            model, [1], cache=cache, sampling=Sampling(), max_tokens=WARM_UP + STEPS
        )
        for _ in range(WARM_UP):
            next(steps)
        mx.synchronize()
        mx.clear_cache()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        for _ in steps:
            pass
        mx.synchronize()
    allocated = mx.get_peak_memory() - before
    return Measurement.at_most_bytes(max(0, allocated), cache[0].nbytes // COPY_SHARE)
