"""The promise: weights, cache and workspace are never less than what MLX reports."""

from __future__ import annotations

import gc
import inspect
from dataclasses import replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlx.utils import tree_flatten

from mlx_mistral import Chat, stream_generate
from mlx_mistral.backend.scratch import CPU, METAL, UNFUSED, ScratchSizes
from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import make_cache
from mlx_mistral.cache.prefix import PrefixCache
from mlx_mistral.config import ModelConfig, QuantConfig, QuantParams
from mlx_mistral.errors import ContextError
from mlx_mistral.memory import MemoryPlan, cache_bytes, max_context, plan_memory, workspace_bytes
from mlx_mistral.memory.needs import ModelNeeds
from mlx_mistral.memory.pass_needs import scratch_of
from mlx_mistral.memory.workspace import CHAT_PLACES
from mlx_mistral.model import Model
from mlx_mistral.tuning import prefill_tokens, rule
from tests.tiny import FAMILIES, MOE, LetterTokenizer, random_ids, tiny_config, tiny_model

SCALED: dict[str, Any] = {
    "dim": 128, "n_layers": 2, "head_dim": 32, "hidden_dim": 256, "n_heads": 8, "n_kv_heads": 2,
    "vocab_size": 266,
}  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "full": {},
    "wide": {"hidden_dim": 4096, "dim": 32},
    "nemo": {"n_heads": 1, "n_kv_heads": 1, "head_dim": 256, "dim": 32},
    "many heads": {"n_heads": 16, "n_kv_heads": 16},
    "large vocabulary": {"vocab_size": 20000, "dim": 64},
    "narrow window": {"sliding_window": 48},
    "window": {"sliding_window": 600},
    "ministral": {"_sliding_window": [None, 300]},
    "mixtral": MOE,
    "mixtral, windowed": {**MOE, "sliding_window": 300},
    "expert rows": {
        "moe": {"num_experts": 8, "num_experts_per_tok": 6},
        "dim": 256,
        "hidden_dim": 16,
        "head_dim": 8,
        "n_heads": 1,
        "n_kv_heads": 1,
    },
    "ministral3": FAMILIES["ministral3"],
    "devstral2": FAMILIES["devstral2"],
}
"""Every family, and numbers that each make another part of the sum the largest."""
CONTEXT, REPLY = 780, 4
SLACK = 2.5
"""How far MLX allocates ahead of what is computed depends on what else the machine does."""


def scaled_config(**changes: Any) -> ModelConfig:
    return tiny_config(**{**SCALED, **changes})


def plan_of(
    model: Model, context: int, *, kv_bits: int | None = None, prefill_tokens: int | None = None
) -> MemoryPlan:
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return plan_memory(
        model.config,
        weights_bytes=sum(array.nbytes for array in parameters.values()),
        context=context,
        budget_bytes=1 << 40,
        activation_bytes=model.dtype.size,
        scratch=scratch_of(model),
        kv_bits=kv_bits,
        prefill_tokens=prefill_tokens,
    )


def quantized_model(
    config: ModelConfig, *, bits: int = 4, group_size: int = 32, mode: str = "affine"
) -> Model:
    """Return a random model whose matrices are quantized, but for routers."""
    params = QuantParams(group_size=group_size, bits=bits, mode=mode)
    model = tiny_model(replace(config, quantization=QuantConfig(default=params)))
    nn.quantize(
        model,
        group_size=group_size,
        bits=bits,
        mode=mode,
        class_predicate=lambda path, module: (
            hasattr(module, "to_quantized") and not path.endswith("gate")
        ),
    )
    mx.eval(model.parameters())
    return model


class Meter:
    """Bytes that MLX holds beyond what it held when this was made."""

    def __init__(self) -> None:
        gc.collect()
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        self._before = mx.get_active_memory()

    @property
    def peak(self) -> int:
        return mx.get_peak_memory() - self._before


def fill(model: Model, context: int, kv_bits: int | None = None) -> int:
    """Reads a prompt and decodes to the last token of a context; the cache's bytes."""
    cache = model.make_cache(kv_bits=kv_bits)
    ids = random_ids(context - REPLY, 266)
    for _ in stream_generate(model, None, ids, max_tokens=REPLY, prompt_cache=cache):
        pass
    return sum(one.nbytes for one in cache)


@pytest.mark.parametrize("shape", SHAPES)
def test_reading_and_answering_stays_inside_the_plan(shape: str) -> None:
    meter = Meter()
    model = tiny_model(scaled_config(**SHAPES[shape]))
    plan = plan_of(model, CONTEXT)
    held = fill(model, CONTEXT)
    assert meter.peak <= plan.total_bytes
    assert plan.total_bytes < SLACK * meter.peak
    assert held <= plan.cache_bytes <= 1.03 * held


@pytest.mark.parametrize("experts", [{}, MOE])
@pytest.mark.parametrize("chunk", [128, 1024])
def test_other_chunks_stay_inside_the_plan(experts: dict[str, Any], chunk: int) -> None:
    """With so many narrow heads that nearly all of it is scores."""
    meter = Meter()
    narrow = {"dim": 32, "head_dim": 8, "hidden_dim": 32, "n_heads": 16}
    model = tiny_model(scaled_config(**narrow, **experts))
    ids = random_ids(1100, 266)
    for _ in stream_generate(model, None, ids, max_tokens=2, prefill_step_size=chunk):
        pass
    assert meter.peak <= plan_of(model, 1102, prefill_tokens=chunk).total_bytes


@pytest.mark.parametrize("window", [100, 1024])
def test_a_window_over_many_chunks_of_queries_stays_inside_the_plan(window: int) -> None:
    """MLX allocates the scores of all of them together."""
    meter = Meter()
    narrow = {"dim": 32, "head_dim": 8, "hidden_dim": 32, "n_heads": 4}
    model = tiny_model(scaled_config(**narrow, sliding_window=window))
    ids = random_ids(4200, 266)
    for _ in stream_generate(model, None, ids, max_tokens=2, prefill_step_size=4096):
        pass
    plan = plan_of(model, 4202, prefill_tokens=4096)
    assert meter.peak <= plan.total_bytes


@pytest.mark.parametrize("shape", ["full", "mixtral", "window"])
def test_half_precision_stays_inside_the_plan(shape: str) -> None:
    if shape == "mixtral" and active_backend().name == "mlx":
        pytest.skip("MLX's CPU device multiplies float32 experts alone")
    meter = Meter()
    model = tiny_model(scaled_config(**SHAPES[shape], n_layers=1))
    model.set_dtype(mx.bfloat16)
    mx.eval(model.parameters())
    mx.reset_peak_memory()
    plan = plan_of(model, 700)
    fill(model, 700)
    assert meter.peak <= plan.total_bytes


@pytest.mark.parametrize("blas", [True, False])
@pytest.mark.parametrize("shape", ["full", "nemo", "mixtral", "window"])
def test_a_quantized_model_stays_inside_the_plan(
    shape: str, blas: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a fast BLAS the CPU backend unpacks matrices; plain operations never do."""
    if blas and active_backend().name == "mlx":
        pytest.skip("the CPU backend alone looks for a BLAS")
    monkeypatch.setattr("mlx_mistral.backend.cpu.blas.is_preloaded", lambda: blas)
    meter = Meter()
    model = quantized_model(scaled_config(**SHAPES[shape]))
    mx.reset_peak_memory()
    fill(model, 700)
    assert meter.peak <= plan_of(model, 700).total_bytes


@pytest.mark.parametrize("shape", ["full", "mixtral"])
def test_an_mxfp4_model_stays_inside_the_plan(shape: str) -> None:
    meter = Meter()
    model = quantized_model(scaled_config(**SHAPES[shape]), mode="mxfp4")
    mx.reset_peak_memory()
    fill(model, 700)
    assert meter.peak <= plan_of(model, 700).total_bytes


@pytest.mark.parametrize("shape", ["full", "narrow window", "window", "ministral"])
def test_the_turns_of_a_chat_stay_inside_the_plan(shape: str) -> None:
    meter = Meter()
    model = tiny_model(scaled_config(**SHAPES[shape]))
    plan = plan_of(model, CONTEXT)
    chat = Chat(model, LetterTokenizer(), max_tokens=REPLY)  # type: ignore[arg-type]
    for turn in range(5):
        for _ in chat.send(str(turn) * (CONTEXT // 5 - 40)):
            pass
    assert chat.reused_tokens > 0
    assert meter.peak <= plan.total_bytes


def test_sampling_from_the_likeliest_stays_inside_the_plan() -> None:
    meter = Meter()
    model = tiny_model(scaled_config(**SHAPES["large vocabulary"]))
    plan = plan_of(model, 20)
    sampling = {"temp": 0.8, "top_k": 50, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1}
    for response in stream_generate(model, None, [1, 2, 3], max_tokens=17, seed=1, **sampling):
        mx.eval(response.logprobs)
    assert meter.peak <= plan.total_bytes


@pytest.mark.parametrize(
    ("shape", "kv_bits"),
    [
        ("full", 8),
        ("full", 4),
        ("narrow window", 4),
        ("window", 8),
        ("ministral", 4),
        ("mixtral, windowed", 4),
        ("devstral2", 8),
    ],
)
def test_a_quantized_cache_stays_inside_the_plan(shape: str, kv_bits: int) -> None:
    meter = Meter()
    model = tiny_model(scaled_config(**SHAPES[shape]))
    plan = plan_of(model, CONTEXT, kv_bits=kv_bits)
    held = fill(model, CONTEXT, kv_bits)
    assert meter.peak <= plan.total_bytes
    assert plan.total_bytes < SLACK * meter.peak
    assert held <= plan.cache_bytes <= 1.03 * held


@pytest.mark.parametrize("head_dim", [32, 64, 96])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("context", [1, 6, 257])
def test_a_quantized_cache_is_as_large_as_it_is_said_to_be(
    head_dim: int, dtype: mx.Dtype, kv_bits: int, context: int
) -> None:
    windows = [None, 5]
    config = tiny_config(head_dim=head_dim, n_layers=2, _sliding_window=windows)
    cache = make_cache(config.windows, kv_bits=kv_bits)
    rows = mx.zeros((1, config.n_kv_heads, context, head_dim), dtype)
    for one in cache:
        one.update_and_fetch(rows, rows)
    said = cache_bytes(config, context, dtype.size, kv_bits)
    assert said == sum(one.nbytes for one in cache)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("context", [1, 5, 6, 255, 256, 257, 300])
def test_a_cache_is_as_large_as_it_is_said_to_be(family: str, context: int) -> None:
    model = tiny_model(tiny_config(**FAMILIES[family]))
    cache = model.make_cache()
    model(mx.array([random_ids(context)]), cache)
    assert cache_bytes(model.config, context, 4) == sum(one.nbytes for one in cache)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.sampled_from(sorted(SHAPES)),
    scratch=st.sampled_from([CPU, UNFUSED, METAL]),
    budget=st.integers(0, 200_000_000),
    loading=st.integers(0, 10_000_000),
    stated=st.one_of(st.none(), st.integers(1, 100_000)),
    chunk=st.sampled_from([None, 32, 2048]),
)
def test_the_longest_context_fits_and_one_token_more_does_not(
    shape: str,
    scratch: ScratchSizes,
    budget: int,
    loading: int,
    stated: int | None,
    chunk: int | None,
) -> None:
    given = {} if stated is None else {"max_position_embeddings": stated}
    config = scaled_config(**SHAPES[shape], **given)
    needs: dict[str, Any] = {
        "weights_bytes": 1_000_000,
        "budget_bytes": budget,
        "activation_bytes": 2,
        "loading_bytes": loading,
        "scratch": scratch,
        "prefill_tokens": chunk,
    }
    longest = max_context(config, **needs)
    end = config.max_context or (1 << 24)
    assert 0 <= longest <= end
    if longest:
        assert plan_memory(config, context=longest, **needs).fits
    if longest < end:
        assert not plan_memory(config, context=longest + 1, **needs).fits


@pytest.mark.parametrize("scratch", [CPU, UNFUSED, METAL])
def test_a_window_bounds_cache_and_workspace(scratch: ScratchSizes) -> None:
    config = scaled_config(sliding_window=64)
    assert cache_bytes(config, 1000, 2) == cache_bytes(config, 1_000_000, 2)
    short, long = (workspace_bytes(config, n, 2, scratch=scratch) for n in (1000, 1_000_000))
    assert short + 4 * (1_000_000 - 1000) == long


def test_more_places_to_go_back_to_hold_more_rings() -> None:
    config = scaled_config(sliding_window=64)
    less, more = (workspace_bytes(config, 1000, 2, scratch=UNFUSED, kept_places=n) for n in (1, 2))
    assert more - less == cache_bytes(config, 1000, 2)


@pytest.mark.parametrize("context", [0, -1, 4097])
def test_a_context_that_the_model_does_not_have_is_refused(context: int) -> None:
    config = scaled_config(max_position_embeddings=4096)
    with pytest.raises(ContextError, match="1 to 4096"):
        plan_memory(
            config,
            weights_bytes=0,
            context=context,
            budget_bytes=1,
            activation_bytes=4,
            scratch=UNFUSED,
        )


def test_a_plan_reckons_with_what_generation_does() -> None:
    assert inspect.signature(stream_generate).parameters["prefill_step_size"].default is None
    for family in ("mistral", "mixtral"):
        config = tiny_config(**FAMILIES[family])
        needs = ModelNeeds.of_unquantized(config, dtype="float32", scratch=active_backend().scratch)
        assert needs.prefill_tokens == prefill_tokens(config, mx.float32) == rule(config)
    kept = inspect.signature(PrefixCache).parameters["max_places"].default
    assert kept == CHAT_PLACES
