"""Quantized products of the CPU backend: the same, row by row or unpacked once for many rows."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.backend.cpu import blas
from mlx_mistral.backend.cpu import linear as cpu_linear
from mlx_mistral.backend.cpu.linear import MIN_ROWS
from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend

N_IN, GROUP = 128, 32


@pytest.fixture(autouse=True)
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "is_preloaded", lambda: True)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of each chunk that is unpacked."""
    rows: list[int] = []
    real = mx.dequantize

    def dequantize(weight: mx.array, *rest: Any, **named: Any) -> mx.array:
        rows.append(weight.shape[0])
        return real(weight, *rest, **named)

    monkeypatch.setattr(mx, "dequantize", dequantize)
    return rows


def quantized(n_out: int, bits: int = 4, mode: str = "affine") -> tuple[Any, dict[str, Any]]:
    """Packed arrays and the arguments that describe them."""
    wide = mx.random.normal((n_out, N_IN), key=mx.random.key(n_out))
    weight, scales, *biases = mx.quantize(wide, group_size=GROUP, bits=bits, mode=mode)
    arrays = (weight, scales, biases[0] if biases else None)
    return arrays, {"group_size": GROUP, "bits": bits, "mode": mode}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n_out", [5, 1024, 2500])
@pytest.mark.parametrize("shape", [(MIN_ROWS,), (8, 1), (3, 7)])
def test_many_rows_are_multiplied_by_the_unpacked_matrix(
    shape: tuple[int, ...], n_out: int, bits: int, unpacked: list[int]
) -> None:
    arrays, form = quantized(n_out, bits)
    x = mx.random.normal((*shape, N_IN), key=mx.random.key(1))
    matrix = np.array(mx.dequantize(*arrays, group_size=GROUP, bits=bits), np.float64)
    unpacked.clear()
    product = np.array(CPUBackend().quantized_linear(x, *arrays, **form))
    assert sum(unpacked) == n_out
    assert product.shape == (*shape, n_out)
    np.testing.assert_allclose(product, np.array(x, np.float64) @ matrix.T, atol=5e-5)


def test_a_matrix_is_unpacked_in_chunks_and_each_once(
    unpacked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, form = quantized(250)
    monkeypatch.setattr(cpu_linear, "CHUNK_WEIGHTS", N_IN * 100)
    CPUBackend().quantized_linear(mx.zeros((MIN_ROWS, N_IN)), *arrays, **form)
    assert unpacked == [100, 100, 50]
    unpacked.clear()
    monkeypatch.setattr(cpu_linear, "MAX_CHUNKS", 2)
    CPUBackend().quantized_linear(mx.zeros((MIN_ROWS, N_IN)), *arrays, **form)
    assert unpacked == [125, 125]


def test_few_rows_and_other_modes_and_types_are_left_to_mlx(
    unpacked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = mx.random.normal((MIN_ROWS, N_IN), key=mx.random.key(2))
    half, half_form = quantized(64)
    half = [part.astype(mx.bfloat16) if part.dtype == mx.float32 else part for part in half]
    for x, (arrays, form) in (
        (many[1:], quantized(64)),
        (many, quantized(64, mode="mxfp4")),
        (many.astype(mx.bfloat16), (half, half_form)),
    ):
        ours, plain = (
            backend.quantized_linear(x, *arrays, **form) for backend in (CPUBackend(), Backend())
        )
        assert ours.dtype == plain.dtype
        assert mx.array_equal(ours, plain)
    monkeypatch.setattr(blas, "is_preloaded", lambda: False)
    arrays, form = quantized(64)
    CPUBackend().quantized_linear(many, *arrays, **form)
    assert unpacked == []


def test_plain_operations_unpack_nothing(unpacked: list[int]) -> None:
    arrays, form = quantized(64)
    Backend().quantized_linear(mx.zeros((64, N_IN)), *arrays, **form)
    assert unpacked == []
