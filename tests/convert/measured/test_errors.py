"""How far a matrix's outputs move, against NumPy."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.config import QuantParams
from mlx_mistral.convert.measured.errors import Moved, output_error, rounded

PARAMS = QuantParams(bits=3, group_size=32)


@pytest.mark.parametrize("n_inputs", [1, 5, 64, 65, 400])
def test_few_and_many_inputs_give_the_same_sum(n_inputs: int) -> None:
    rng = np.random.default_rng(n_inputs)
    inputs = [rng.standard_normal((n, 64)).astype(np.float32) for n in (n_inputs, 3, 90)]
    weight = rng.standard_normal((3, 40, 64)).astype(np.float32)
    error = weight - np.array(rounded(mx.array(weight), PARAMS, mx.bfloat16))
    expected = sum(
        np.square(x.astype(np.float64) @ one.T).sum() for x, one in zip(inputs, error, strict=True)
    )
    moved = [Moved(mx.array(x)) for x in inputs]
    found = output_error(mx.array(weight), moved, PARAMS, mx.bfloat16)
    assert found == pytest.approx(expected, rel=1e-4)


def test_no_error_moves_nothing() -> None:
    for n in (2, 100):
        moved = Moved(mx.random.normal((n, 32)))
        assert moved.squares(mx.zeros((8, 32))) == 0


def test_an_expert_that_no_token_reached_moves_nothing() -> None:
    assert Moved(mx.zeros((0, 32))).squares(mx.ones((8, 32))) == 0
