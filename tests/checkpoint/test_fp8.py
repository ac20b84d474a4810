"""FP8 weights come out as their number times its scale, in every layout and shape of scale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_mistral.checkpoint import load_model
from mlx_mistral.checkpoint.fp8 import dequantize
from mlx_mistral.errors import CheckpointError
from tests.checkpoint.models import (
    HF_CONFIG,
    PARAMS,
    hf_weights,
    official_weights,
    pair_rows,
)
from tests.checkpoint.writers import bfloat16_bits, write_json, write_safetensors

Arrays = dict[str, np.ndarray]


def decode(code: int) -> float:
    """E4M3 by its definition: sign, 4 bits of exponent with bias 7, 3 of mantissa; no infinity.

    Source: arXiv:2209.05433, table 1.
    """
    sign = -1.0 if code & 0x80 else 1.0
    exponent, mantissa = (code >> 3) & 15, code & 7
    if exponent == 15 and mantissa == 7:
        return float("nan")
    if exponent == 0:
        return sign * mantissa / 8 * 2.0**-6
    return sign * (1 + mantissa / 8) * 2.0 ** (exponent - 7)


E4M3 = np.array([decode(code) for code in range(256)], np.float32)


def codes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Random codes, the two NaN left out."""
    return rng.choice([c for c in range(256) if c not in (0x7F, 0xFF)], shape).astype(np.uint8)


def spread(scale: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """The scale of every single weight."""
    out = np.empty((rows, columns), np.float32)
    for r in range(rows):
        for c in range(columns):
            if scale.size == 1:
                out[r, c] = scale.reshape(-1)[0]
            elif scale.shape in ((rows,), (rows, 1)):
                out[r, c] = scale.reshape(rows)[r]
            else:
                out[r, c] = scale[r // 128, c // 128]
    return out


@pytest.mark.parametrize(
    ("rows", "columns", "shape"),
    [
        (5, 6, ()),
        (5, 6, (1,)),
        (5, 6, (1, 1)),
        (5, 6, (5,)),
        (5, 6, (5, 1)),
        (130, 260, (2, 3)),
        (128, 256, (1, 2)),
        (256, 128, (2, 1)),
        (2, 200, (1, 2)),
    ],
)
def test_every_shape_of_scale_multiplies_its_weights(
    rows: int, columns: int, shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    weight = codes(rng, (rows, columns))
    scale = rng.uniform(0.5, 2, shape).astype(np.float32)
    found = np.array(dequantize(mx.array(weight), mx.array(scale)))
    expected = E4M3[weight].astype(np.float64) * spread(np.asarray(scale), rows, columns)
    assert np.array_equal(found, expected.astype(np.float32))


def fp8_weights(scale_shape: str) -> tuple[Arrays, Arrays]:
    """Hugging Face names: what is stored, and the float32 weights that it means."""
    rng = np.random.default_rng(1)
    stored, meant = {}, {}
    for name, array in hf_weights().items():
        if "_proj" not in name:
            stored[name] = bfloat16_bits(array)
            meant[name] = (stored[name].astype(np.uint32) << 16).view(np.float32)
            continue
        rows, columns = array.shape
        shape = {"tensor": (), "row": (rows, 1), "block": (1, 1)}[scale_shape]
        scale = rng.uniform(0.01, 0.02, shape).astype(np.float32)
        stored[name] = codes(rng, array.shape)
        stored[f"{name}_scale_inv"] = scale
        stored[name.replace("weight", "activation_scale")] = np.ones((), np.float32)
        product = E4M3[stored[name]].astype(np.float64) * spread(scale, rows, columns)
        meant[name] = product.astype(np.float32)
    return stored, meant


def as_official(stored: Arrays) -> Arrays:
    """Official names and order of rows, the scales' as well."""
    out = {}
    for name, array in stored.items():
        if (
            name.endswith("_scale_inv")
            and array.ndim == 2
            and ("q_proj" in name or "k_proj" in name)
        ):
            array = pair_rows(array)
        module, _, leaf = name.rpartition(".")
        leaf = {"weight_scale_inv": "qscale_weight", "activation_scale": "qscale_act"}.get(
            leaf, leaf
        )
        weights = {f"{module}.weight": array}
        if leaf == "weight":
            out |= official_weights(weights)
        else:
            # Only weights are reordered by name there.
            (renamed,) = official_weights({f"{module}.weight": np.zeros((16, 1))})
            out[renamed.replace("weight", leaf)] = array
    return out


def write(folder: Path, stored: Arrays, layout: str) -> Path:
    folder.mkdir(exist_ok=True)
    if layout == "hf":
        write_json(folder / "config.json", HF_CONFIG)
        file = folder / "model.safetensors"
    else:
        stored = as_official(stored)
        write_json(folder / "params.json", PARAMS)
        file = folder / "consolidated.safetensors"
    marked = tuple(name for name, array in stored.items() if array.dtype == np.uint8)
    write_safetensors(file, stored, fp8=marked)
    return folder


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("layout", ["hf", "official"])
@pytest.mark.parametrize("scale_shape", ["tensor", "row", "block"])
def test_both_layouts_give_the_weights_that_are_meant(
    scale_shape: str, layout: str, lazy: bool, tmp_path: Path
) -> None:
    stored, meant = fp8_weights(scale_shape)
    model = load_model(write(tmp_path, stored, layout), dtype="float32", lazy=lazy)
    found = dict(tree_flatten(model.parameters()))
    assert found.keys() == meant.keys()
    for name, array in meant.items():
        assert np.array_equal(np.array(found[name]), array), name


NAME = "model.layers.0.mlp.up_proj.weight"


def changed(**arrays: Any) -> Arrays:
    stored, _ = fp8_weights("tensor")
    for suffix, array in arrays.items():
        if array is None:
            del stored[NAME + suffix]
        else:
            stored[NAME + suffix] = array
    return stored


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (changed(_scale_inv=None), "is FP8 and has no scale"),
        (changed(**{"": np.zeros((96, 64), "f4")}), "has an FP8 scale"),
        (changed(**{"": None}), "scales no stored weight"),
        (changed(_scale_inv=np.ones((2,), "f4")), r"of shape \[2\] does not scale"),
        (changed(_scale_inv=np.ones((64,), "f4")), r"of shape \[64\] does not scale"),
        (changed(_scale_inv=np.ones((), "u4")), "no FP8 scale"),
    ],
    ids=["no scale", "no FP8", "no weight", "two scales", "a scale a column", "integers"],
)
def test_a_scale_that_does_not_fit_is_named(stored: Arrays, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_model(write(tmp_path, stored, "hf"))
