"""The peak of a pass at the end of a long context, without a prefill of what comes before."""

from __future__ import annotations

import gc

import mlx.core as mx

from mlx_mistral import stream_generate
from mlx_mistral.cache.rows import parts_of
from mlx_mistral.memory.cache import cache_bytes
from mlx_mistral.memory.pass_needs import scratch_of
from mlx_mistral.memory.workspace import workspace_bytes
from mlx_mistral.model import Model
from mlx_mistral.tuning import rule
from tests.tiny import random_ids

REPLY = 4


def peak_at(model: Model, context: int, kv_bits: int | None = None) -> int:
    """Return the peak of caches and work while the last chunk of a prompt is read and answered.

    The caches begin with random keys and values for all tokens before that chunk.
    """
    config, chunk = model.config, rule(model.config)
    gc.collect()
    mx.clear_cache()
    before = mx.get_active_memory()
    caches, n_past = model.make_cache(kv_bits=kv_bits), max(0, context - REPLY - chunk)
    for window, cache in zip(config.windows, caches, strict=True):
        n_stored = n_past if window is None else min(n_past, window)
        if n_stored:
            shape = (1, config.n_kv_heads, n_stored, config.head_dim)
            rows = parts_of(cache._stored(mx.random.normal(shape).astype(model.dtype)))
            mx.eval(rows)
            cache.load((*rows, *rows), n_past)
            mx.eval(cache.state)
            del rows
    mx.clear_cache()
    mx.reset_peak_memory()
    ids = random_ids(context - REPLY - n_past, config.vocab_size)
    for _ in stream_generate(model, None, ids, max_tokens=REPLY, prompt_cache=caches):
        pass
    return mx.get_peak_memory() - before


def planned_at(model: Model, context: int, kv_bits: int | None = None) -> int:
    """Return the plan's sum of cache and workspace, for a prompt that no chat continues."""
    size = model.dtype.size
    return cache_bytes(model.config, context, size, kv_bits) + workspace_bytes(
        model.config,
        context,
        size,
        scratch=scratch_of(model),
        kept_places=0,
        kv_bits=kv_bits,
    )
