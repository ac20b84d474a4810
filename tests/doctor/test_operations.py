"""Each operation's check passes where it is right, in every dtype, and fails for its mistakes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.cache.mask import Band, Mask, attention_mask
from mlx_mistral.config.quantization import QuantParams
from mlx_mistral.doctor import reference
from mlx_mistral.doctor.attention import attention_probes
from mlx_mistral.doctor.check import Check, run_probe
from mlx_mistral.doctor.experts import expert_probes
from mlx_mistral.doctor.linear import FORMATS, linear_probes
from mlx_mistral.doctor.probes import operation_probes
from mlx_mistral.doctor.quantized import QuantizedMatrix, describe
from mlx_mistral.doctor.setup import N_EXPERTS, Setup
from mlx_mistral.doctor.tolerance import limit
from tests.doctor.broken import BROKEN

SMALL = Setup(
    backend=Backend(), dtype=mx.float32, is_fast=False,
    head_dim=64, n_heads=4, n_kv_heads=2, dim=256, hidden_dim=384,
)  # fmt: skip


@cache
def checks_of(backend: type[Backend], dtype: mx.Dtype = mx.float32) -> dict[str, Check]:
    """Run all checks of operations but the long ones, by name."""
    setup = replace(SMALL, backend=backend(), dtype=dtype)
    slow = (" 512 ", " 513 ", "window of 4096", "131 tokens")
    probes = [p for p in operation_probes(setup) if not any(text in p.name for text in slow)]
    return {probe.name: run_probe(probe) for probe in probes}


@pytest.mark.parametrize("backend", [Backend, CPUBackend])
def test_right_operations_pass(backend: type[Backend]) -> None:
    checks = checks_of(backend)
    assert {name: check for name, check in checks.items() if not check.ok} == {}
    assert len(checks) > 50


@pytest.mark.parametrize("backend", BROKEN, ids=lambda backend: backend.__name__)
def test_a_mistake_fails_its_checks_by_far_and_no_other(backend: type[Backend]) -> None:
    kinds = BROKEN[backend]
    checks = checks_of(backend)
    failed = [check for check in checks.values() if not check.ok]
    for kind in kinds:
        assert any(check.name.startswith(kind) for check in failed), kind
    for check in failed:
        assert check.name.startswith(kinds), check
        assert "report `mlx-mistral doctor --json`" in check.advice
        if check.unit == "error" and check.limit:
            assert float(check.value or 0) > 0.15, check  # wrong in bfloat16 too


class RoundingBackend(Backend):
    """Operations as a GPU may compute them: sums in float32, other values rounded to bfloat16."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        shared = q.shape[1] // k.shape[1]
        k, v = (mx.repeat(x, shared, axis=1).astype(mx.float32) for x in (k, v))
        scores = ((q * scale).astype(mx.float32) @ k.swapaxes(-1, -2)).astype(q.dtype)
        if isinstance(mask, Band) or mask == "causal":
            window = mask.window if isinstance(mask, Band) else None
            n_new, n_seen = q.shape[2], k.shape[2]
            mask = attention_mask(n_new, n_seen - n_new, window, return_array=True)
        if isinstance(mask, mx.array):
            scores = mx.where(mask, scores, -mx.inf)
        shares = mx.softmax(scores.astype(mx.float32), axis=-1).astype(q.dtype)
        return (shares.astype(mx.float32) @ v).astype(q.dtype)

    def rms_norm(self, x: mx.array, weight: mx.array, eps: float) -> mx.array:
        unweighted = super().rms_norm(x.astype(mx.float32), mx.ones(weight.shape), eps)
        normed = unweighted.astype(x.dtype)
        return normed * weight

    def quantized_linear(
        self, x: mx.array, weight: mx.array, scales: mx.array, biases: Any, **form: Any
    ) -> mx.array:
        unpacked = mx.dequantize(weight, scales, biases, dtype=x.dtype, **form)
        return (x.astype(mx.float32) @ unpacked.T.astype(mx.float32)).astype(x.dtype)


def test_roundings_of_bfloat16_pass_with_room_to_the_limit() -> None:
    setup = replace(SMALL, backend=RoundingBackend(), dtype=mx.bfloat16)
    names = ("attention, causal", "attention, window", "attention, uneven", "rms", "rotary")
    probes = [p for p in attention_probes(setup) if p.name.startswith(names)]
    probes += [p for p in linear_probes(setup) if "compiled" not in p.name]
    slow = (" 512 ", " 513 ", "window of 4096", "long prompt")
    for probe in probes:
        if not any(text in probe.name for text in slow):
            check = run_probe(probe)
            assert check.ok, check
            assert isinstance(check.value, float), check
            assert check.value < 0.75 * (check.limit or 0), check


def test_limits_grow_with_the_rounding_of_the_dtype() -> None:
    assert limit(mx.float32, 4096) == pytest.approx(6.2e-5, rel=0.02)
    assert limit(mx.bfloat16, 4096) == pytest.approx(3.1e-2, rel=0.02)


@pytest.mark.parametrize("params", FORMATS, ids=describe)
def test_codes_stand_for_what_mlx_unpacks(params: QuantParams) -> None:
    """Two implementations of each format."""
    matrix = QuantizedMatrix.random((3, 256), params, mx.float32)
    unpacked = mx.dequantize(
        matrix.words, matrix.scales, matrix.biases, params.group_size, params.bits, params.mode,
        dtype=mx.float32,
    )  # fmt: skip
    np.testing.assert_allclose(matrix.weights(range(3)), np.array(unpacked), rtol=1e-5, atol=1e-6)


def test_fewer_experts_run_where_memory_is_short() -> None:
    fast = replace(SMALL, is_fast=True)
    assert fast.n_experts(1) == N_EXPERTS
    assert fast.n_experts(400 << 20) == 5
    assert replace(fast, free_bytes=4 << 30).n_experts(400 << 20) == 2
    assert replace(fast, free_bytes=0).n_experts(1) == 2


def test_a_long_chunk_of_the_cpu_backend_packs_experts_into_tiles() -> None:
    setup = replace(SMALL, backend=CPUBackend())
    checks = [run_probe(p) for p in expert_probes(setup) if "131 tokens" in p.name]
    assert [check.value for check in checks] == [0, 0]


def test_a_padding_token_of_the_reference_sees_itself() -> None:
    k = np.random.default_rng(0).normal(size=(1, 1, 3, 4))
    out = reference.attention(k, k, k, scale=1.0, window=None, padding=(2,), queries=(0, 1, 2))
    np.testing.assert_allclose(out[0, 0], k[0, 0], atol=1e-12)
