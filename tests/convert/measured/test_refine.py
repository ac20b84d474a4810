"""Rounding with least error, against MLX's own rounding and a NumPy reading of the bits."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny import random_ids

from mlx_mistral.checkpoint import Checkpoint, load_model
from mlx_mistral.config import QuantParams
from mlx_mistral.config.quantization import AFFINE_BITS, AFFINE_GROUPS
from mlx_mistral.convert.measured import measure, refine
from mlx_mistral.convert.measured.inputs import mean_squares
from mlx_mistral.convert.measured.refine import pack
from tests.checkpoint.models import hf_weights, write_hf

COLUMNS = 256


def random_weight(*shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
    return mx.array(np.random.default_rng(0).standard_normal(shape)).astype(dtype)


def importance_of(*shape: int) -> mx.array:
    """Few columns matter much, as in real models."""
    return mx.array(np.random.default_rng(1).lognormal(0, 2, shape).astype(np.float32))


def error(
    weight: mx.array, parts: tuple[mx.array, ...], params: QuantParams, by: mx.array
) -> float:
    floats = [parts[0], *(part.astype(mx.float32) for part in parts[1:])]
    back = mx.dequantize(*floats, group_size=params.group_size, bits=params.bits)
    difference = np.array(weight.astype(mx.float32) - back, np.float64)
    return float((np.expand_dims(np.array(by), -2) * difference**2).sum())


@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_levels_are_packed_as_mlx_reads_them(bits: int) -> None:
    levels = np.random.default_rng(0).integers(0, 2**bits, (3, COLUMNS)).astype(np.uint32)
    packed = pack(mx.array(levels), bits)
    ones = mx.ones((3, COLUMNS // 64))
    read = mx.dequantize(packed, ones, 0 * ones, group_size=64, bits=bits)
    np.testing.assert_array_equal(np.array(read), levels)


@pytest.mark.parametrize("group_size", AFFINE_GROUPS)
@pytest.mark.parametrize("bits", AFFINE_BITS)
def test_the_error_where_it_matters_is_less_than_with_mlx(bits: int, group_size: int) -> None:
    params = QuantParams(bits=bits, group_size=group_size)
    weight, importance = random_weight(24, COLUMNS), importance_of(COLUMNS)
    refined = refine(weight, params, importance)
    theirs = mx.quantize(weight, group_size=group_size, bits=bits)
    for ours, other in zip(refined, theirs, strict=True):
        assert (ours.shape, ours.dtype) == (other.shape, other.dtype)
    assert error(weight, refined, params, importance) < error(weight, theirs, params, importance)


def test_no_group_gets_worse() -> None:
    params = QuantParams(bits=3, group_size=32)
    weight, even = random_weight(64, 32), mx.ones(32)
    refined = refine(weight, params, even)
    theirs = mx.quantize(weight, group_size=32, bits=3)
    for row in range(64):
        ours = error(weight[row : row + 1], tuple(x[row : row + 1] for x in refined), params, even)
        other = error(weight[row : row + 1], tuple(x[row : row + 1] for x in theirs), params, even)
        assert ours <= other * (1 + 1e-6)


def test_experts_follow_their_own_importance() -> None:
    params = QuantParams(bits=2, group_size=64)
    weight, importance = random_weight(3, 8, COLUMNS), importance_of(3, COLUMNS)
    together = refine(weight, params, importance)
    for expert in range(3):
        alone = refine(weight[expert], params, importance[expert])
        for part, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(
                *(np.array(x.view(mx.uint8)) for x in (part[expert], other))
            )


@pytest.mark.parametrize("seen", [0.0, 1.0])
def test_what_the_format_can_hold_exactly_stays_exact(seen: float) -> None:
    params = QuantParams(bits=4, group_size=64)
    levels = np.random.default_rng(0).integers(0, 16, (4, 128))
    weight = mx.array(0.25 * levels - 1).astype(mx.bfloat16)
    weight[0] = 0
    refined = refine(weight, params, mx.full((128,), seen))
    assert error(weight, refined, params, mx.ones(128)) == 0


def test_importance_is_the_mean_square_of_the_inputs(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, hf_weights())
    ids = random_ids(58, vocab_size=80)
    found = measure(Checkpoint(folder), ids, bos_id=1, dtype="float32", text_tokens=30).importance
    model = load_model(folder, dtype="float32")
    texts = mx.array([[1, *ids[:29]], [1, *ids[29:]]])
    x = np.array(model.layers[0].input_layernorm(model.model.embed_tokens(texts)))
    for name in ("q_proj", "v_proj"):
        path = f"model.layers.0.self_attn.{name}"
        np.testing.assert_allclose(np.array(found[path]), (x**2).mean((0, 1)), rtol=1e-4)
    last = np.array(model.model(texts))
    np.testing.assert_allclose(np.array(found["lm_head"]), (last**2).mean((0, 1)), rtol=1e-4)


def test_an_expert_with_few_rows_leans_on_those_of_all() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.standard_normal((n, 5)).astype(np.float32) * (1 + n) for n in (2, 0, 30)]
    found = np.array(mean_squares([mx.array(one) for one in rows], 4))
    overall = np.concatenate([*rows]).astype(np.float64)
    leaning = (overall**2).mean(0)
    for expert, own in enumerate([*rows, np.zeros((0, 5))]):
        expected = ((own**2).sum(0) + 16 * leaning) / (len(own) + 16)
        np.testing.assert_allclose(found[expert], expected, rtol=1e-5)
    together = np.array(mean_squares([mx.array(overall.astype(np.float32))], None))
    np.testing.assert_allclose(together, leaning, rtol=1e-5)


def test_each_expert_has_an_importance_of_its_own(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, hf_weights(moe=True), moe=True)
    ids = random_ids(58, vocab_size=80)
    found = measure(Checkpoint(folder), ids, bos_id=1, dtype="float32", text_tokens=30).importance
    stacks = {path: x.shape for path, x in found.items() if ".switch_mlp." in path}
    assert set(stacks.values()) == {(4, 64), (4, 96)}
    up = np.array(found["model.layers.0.block_sparse_moe.switch_mlp.up_proj"])
    assert np.abs(up[0] / up[1] - 1).max() > 0.01
