"""Quantized maps give the same, row by row or many rows at once."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

from mlx_mistral.model import linear
from mlx_mistral.model.linear import FEW_ROWS, Linear, QuantizedLinear

N_IN = 128


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "multiplies_fast", lambda: True)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each piece that was unpacked, its rows."""
    rows: list[int] = []
    real = mx.dequantize

    def dequantize(weight: mx.array, *rest: Any, **named: Any) -> mx.array:
        rows.append(weight.shape[0])
        return real(weight, *rest, **named)

    monkeypatch.setattr(mx, "dequantize", dequantize)
    return rows


def quantized(n_out: int, bits: int = 4, bias: bool = False, mode: str = "affine") -> Any:
    wide = Linear(N_IN, n_out, bias=bias)
    return wide.to_quantized(32, bits, mode)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("n_out", [5, 1024, 2500])
@pytest.mark.parametrize("shape", [(FEW_ROWS,), (8, 1), (3, 7)])
def test_many_rows_are_multiplied_by_what_the_matrix_stands_for(
    shape: tuple[int, ...], n_out: int, bits: int
) -> None:
    one = quantized(n_out, bits)
    x = mx.random.normal((*shape, N_IN))
    matrix = np.array(
        mx.dequantize(one.weight, one.scales, one.biases, group_size=32, bits=bits), np.float64
    )
    got = np.array(one(x))
    assert got.shape == (*shape, n_out)
    np.testing.assert_allclose(got, np.array(x, np.float64) @ matrix.T, atol=2e-5)


def test_a_matrix_is_unpacked_in_pieces_and_each_once(
    unpacked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "PIECE_WEIGHTS", N_IN * 100)
    quantized(250)(mx.zeros((FEW_ROWS, N_IN)))
    assert unpacked == [100, 100, 50]
    unpacked.clear()
    monkeypatch.setattr(linear, "MOST_PIECES", 2)
    quantized(250)(mx.zeros((FEW_ROWS, N_IN)))
    assert unpacked == [125, 125]


def test_few_rows_and_what_gains_nothing_are_left_to_mlx(
    unpacked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    many = mx.random.normal((FEW_ROWS, N_IN))
    for one, x in (
        (quantized(64), many[1:]),
        (quantized(64, bias=True), many),
        (quantized(64, mode="mxfp4"), many),
    ):
        expected = nn.QuantizedLinear.__call__(one, x)
        np.testing.assert_array_equal(np.array(one(x)), np.array(expected))
    half = quantized(64)
    half.set_dtype(mx.bfloat16)
    assert half(many.astype(mx.bfloat16)).dtype == mx.bfloat16
    monkeypatch.setattr(linear, "multiplies_fast", lambda: False)
    quantized(64)(many)
    assert unpacked == []


def test_a_quantized_model_is_made_of_them() -> None:
    model = nn.Sequential(Linear(N_IN, 64, bias=False), nn.Linear(64, 64, bias=False))
    nn.quantize(model, group_size=32, bits=4)
    assert [type(one) for one in model.layers] == [QuantizedLinear, nn.QuantizedLinear]


def test_on_a_gpu_nothing_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(linear, "_has_blas_in_front", lambda: True)
    assert linear.multiplies_fast() is (mx.default_device() == mx.cpu)
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert not linear.multiplies_fast()
