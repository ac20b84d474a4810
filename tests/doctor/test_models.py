"""Whole models: the demo's recorded reply, experts on disk, memory, and speed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
import reference
from tiny import weights_of

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.dispatch import Dispatch, RunExperts
from mlx_mistral.backend.ops import Backend
from mlx_mistral.checkpoint import load_model
from mlx_mistral.config.sizes import size_text
from mlx_mistral.demo import model_path
from mlx_mistral.doctor import memory, offload
from mlx_mistral.doctor.bandwidth import bandwidth_share, copy_rate
from mlx_mistral.doctor.check import Probe, run_probe
from mlx_mistral.doctor.offload import offload_differences, offload_probes
from mlx_mistral.doctor.replies import (
    RecordedReply,
    batch_differences,
    logits_error,
    n_unequal,
    reply_differences,
    reply_probes,
    top_differences,
)
from mlx_mistral.doctor.setup import Setup
from mlx_mistral.generation import generate_ids
from mlx_mistral.memory.chips import Chip
from mlx_mistral.text import load_tokenizer
from tests.doctor.broken import InexactDispatch, PositionOffByOne, WindowOffByOne

SETUP = Setup(backend=Backend(), dtype=mx.float32, is_fast=False)


def test_the_recorded_reply_is_what_numpy_computes() -> None:
    recorded = RecordedReply.read()
    model = load_model(model_path(), dtype=mx.float32)
    ids = recorded.prompt_ids + recorded.reply_ids[:-1]
    logits = reference.logits(model.config, weights_of(model), ids)[-len(recorded.reply_ids) :]
    assert logits.argmax(-1).tolist() == recorded.reply_ids
    np.testing.assert_allclose(logits[-1], recorded.last_logits, atol=1e-4)
    second, first = np.sort(logits, axis=-1)[:, -2:].T
    assert (first - second).min() > 7
    assert len(ids) > (model.config.sliding_window or 0)
    assert load_tokenizer(model_path()).decode(recorded.reply_ids) == "1+6=7, 3+4=7, so 77"


def test_replies_of_this_machine_pass() -> None:
    for probe in reply_probes(SETUP):
        assert run_probe(probe).ok, probe.name


@pytest.mark.parametrize("backend", [PositionOffByOne(), WindowOffByOne()])
def test_a_wrong_operation_moves_the_logits(backend: Backend) -> None:
    """A rotation that is off everywhere changes no reply, since only distances count."""
    measured = logits_error(replace(SETUP, backend=backend), mx.float32)
    assert measured.ok is isinstance(backend, PositionOffByOne)


class WrongHead(Backend):
    """Attention of the first query head is that of the second."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, **options: Any) -> mx.array:
        out = super().attention(q, k, v, **options)
        return mx.concatenate([out[:, 1:2], out[:, 1:]], axis=1)


def test_a_wrong_head_changes_the_reply() -> None:
    setup = replace(SETUP, backend=WrongHead())
    assert not logits_error(setup, mx.float32).ok
    assert not top_differences(setup).ok
    assert not reply_differences(setup).ok
    assert not batch_differences(setup).ok


def test_logits_of_bfloat16_are_inside_their_limit_with_room() -> None:
    assert float(logits_error(SETUP, mx.float32).value or 0) < 1e-4
    # MLX's CPU device sums in bfloat16, and plain MLX has no experts of 16 bits there.
    measured = logits_error(replace(SETUP, backend=CPUBackend()), mx.bfloat16)
    assert float(measured.value or 0) < 0.5 * (measured.limit or 0)


def test_missing_tokens_count_as_different() -> None:
    assert n_unequal([1, 2, 3], [1, 2, 3]) == 0
    assert n_unequal([1, 2], [1, 2, 3]) == 1
    assert n_unequal([1, 9, 3, 4], [1, 2, 3]) == 2


def test_experts_on_disk_pass() -> None:
    for probe in offload_probes(SETUP):
        check = run_probe(probe)
        assert (check.ok, check.value) == (True, 0), check


def test_an_expert_alone_that_rounds_in_another_way_fails_offloading() -> None:
    measured = offload_differences(replace(SETUP, backend=InexactDispatch()), None)
    assert not measured.ok
    assert isinstance(measured.value, int)
    assert measured.value > 100


def test_offloading_with_cuda_is_reported_as_not_available(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(offload, "device_kind", lambda: "cuda")
    assert offload_differences(SETUP, None).ok


def test_decode_steps_that_copy_no_cache_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.copied_bytes(SETUP, None).ok


def test_a_cache_that_is_copied_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second reference to the cache's buffers makes MLX copy them at the next write."""

    def copying(model: Any, prompt: Any, *, cache: Any, **options: Any) -> Any:
        for step in generate_ids(model, prompt, cache=cache, **options):
            references.append([layer.state for layer in cache])
            yield step

    references: list[Any] = []
    monkeypatch.setattr(memory, "generate_ids", copying)
    measured = memory.copied_bytes(SETUP, None)
    assert not measured.ok, size_text(int(measured.value or 0))


def test_a_plan_below_the_peak_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def with_more_memory(*args: Any, **options: Any) -> Any:
        large = mx.zeros((1 << 24,))
        mx.eval(large)
        return original(*args, **options)

    original = memory.stream_generate
    monkeypatch.setattr(memory, "stream_generate", with_more_memory)
    measured = memory.plan_against_peak(SETUP)
    assert not measured.ok
    assert int(measured.value or 0) > 1 << 26


def test_speed_has_a_limit_where_the_chip_is_known() -> None:
    chip = Chip(name="M1", gpu_cores=8, bandwidth_gbs=1e9, memory_gb=(8,))
    measured = bandwidth_share(SETUP, chip, copy_rate)
    assert not measured.ok
    assert measured.limit == 0.5
    unknown = bandwidth_share(SETUP, None, copy_rate)
    assert unknown.ok
    assert str(unknown.value).endswith(" GB/s")


def test_a_folder_that_cannot_be_written_is_a_failed_check(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offload, "write_mixture", full)
    check = run_probe(Probe(name="offload", measure=lambda: offload_differences(SETUP, None)))
    assert not check.ok
    assert "No space left" in str(check.value)


def test_dispatch_is_used_where_experts_are_on_disk() -> None:
    calls: list[int] = []

    class Counting(Dispatch):
        def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
            calls.append(len(token_rows))
            return super().run_expert(x, token_rows, expert)

    class CountingBackend(Backend):
        def dispatch(self, n_routed: int, num_experts: int, *, is_quantized: bool) -> Dispatch:
            return Counting()

    assert offload_differences(replace(SETUP, backend=CountingBackend()), None).ok
    assert calls
