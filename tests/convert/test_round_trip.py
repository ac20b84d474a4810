"""What the file's bytes stand for, read with NumPy alone, is the source up to half a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.convert import convert_checkpoint
from tests.checkpoint.writers import write_json, write_safetensors
from tests.convert.dequantize import GRIDS, bfloat16, codes_of, dequantize, read_folder, scale_of
from tests.convert.folders import hf_config

AFFINE = [(bits, group) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64, 128)]
FIXED = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
ROUNDING = {"bfloat16": 2.0**-9, "float16": 2.0**-12, "float32": 2.0**-25}
"""The relative error of a number rounded to a dtype."""
SMALLEST = {"bfloat16": 2.0**-134, "float16": 2.0**-25}
"""Its absolute error where the number is too small for that."""


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Float32; groups of every scale, one of zeros, one of a single number, one of outliers."""
    rng = np.random.default_rng(0)
    shapes = {
        "model.embed_tokens": (64, 128),
        "lm_head": (64, 128),
        "model.layers.0.self_attn.q_proj": (128, 128),
        "model.layers.0.self_attn.k_proj": (64, 128),
        "model.layers.0.self_attn.v_proj": (64, 128),
        "model.layers.0.self_attn.o_proj": (128, 128),
        "model.layers.0.mlp.gate_proj": (128, 128),
        "model.layers.0.mlp.up_proj": (128, 128),
        "model.layers.0.mlp.down_proj": (128, 128),
    }
    arrays = {f"{path}.weight": rng.standard_normal(shape) for path, shape in shapes.items()}
    for array in arrays.values():
        array *= np.exp2(rng.integers(-12, 4, (len(array), 1)))
        array[0], array[1] = 0, 0.3
        array[2, ::50] *= 40
    for norm in (
        "model.norm",
        "model.layers.0.input_layernorm",
        "model.layers.0.post_attention_layernorm",
    ):
        arrays[f"{norm}.weight"] = 1 + 0.1 * rng.standard_normal(128)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def source(weights: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("round") / "source"
    folder.mkdir()
    write_json(folder / "config.json", hf_config("mistral", num_hidden_layers=1))
    write_safetensors(folder / "model.safetensors", weights)
    return folder


def modules(weights: dict[str, np.ndarray]) -> list[str]:
    return [name.removesuffix(".weight") for name in weights if weights[name].ndim == 2]


def in_dtype(array: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "bfloat16":
        return bfloat16(array)
    return array.astype({"float16": np.float16, "float32": np.float32}[dtype]).astype(np.float32)


def by_mlx(tensors: dict[str, np.ndarray], module: str, **params: Any) -> np.ndarray:
    """In float32, whatever the scales were stored in."""
    parts = [tensors.get(f"{module}.{part}") for part in ("weight", "scales", "biases")]
    arrays = [None if part is None else mx.array(part) for part in parts]
    arrays = [
        one.astype(mx.float32) if one is not None and one.dtype == mx.float16 else one
        for one in arrays
    ]
    return np.array(mx.dequantize(*arrays, **params, dtype=mx.float32))


@pytest.mark.parametrize(
    ("bits", "group", "dtype"),
    [(*one, "bfloat16") for one in AFFINE] + [(bits, 64, "float16") for bits in (2, 3, 4, 5, 6, 8)],
)
def test_affine_codes_stand_for_the_nearest_numbers_of_their_group(
    bits: int, group: int, dtype: str, source: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Half a step, a whole one at the end that MLX gives up to hit the other end exactly; and
    what rounding a scale and a bias of at most 2^bits - 1 steps adds."""
    params = {"bits": bits, "group_size": group, "mode": "affine"}
    done = convert_checkpoint(source, tmp_path / "out", bits=bits, group_size=group, dtype=dtype)
    tensors, top = read_folder(done.dest), 2**bits - 1
    for module in modules(weights):
        meant = dequantize(tensors, module, **params)
        assert np.allclose(meant, by_mlx(tensors, module, **params), rtol=1e-6, atol=1e-9)
        codes = codes_of(tensors[f"{module}.weight"], bits)
        step = np.abs(np.repeat(tensors[f"{module}.scales"].astype(np.float64), group, -1))
        off = np.abs(meant - in_dtype(weights[f"{module}.weight"], dtype))
        steps = np.where((codes == 0) | (codes == top), 1.0, 0.5) + 2 * top * ROUNDING[dtype]
        assert np.all(off <= steps * step + 2**bits * SMALLEST[dtype] + 1e-12), module


@pytest.mark.parametrize("mode", FIXED)
def test_float_codes_stand_for_the_nearest_numbers_of_their_group(
    mode: str, source: Path, weights: dict[str, np.ndarray], tmp_path: Path
) -> None:
    bits, group = FIXED[mode]
    params = {"bits": bits, "group_size": group, "mode": mode}
    done = convert_checkpoint(source, tmp_path / "out", mode=mode)
    tensors, grid = read_folder(done.dest), np.unique(GRIDS[mode]).astype(np.float64)
    for module in modules(weights):
        meant = dequantize(tensors, module, **params)
        assert np.array_equal(meant, by_mlx(tensors, module, **params))
        given = bfloat16(weights[f"{module}.weight"]).astype(np.float64)
        scale = np.repeat(scale_of(tensors[f"{module}.scales"], mode), group, -1)
        unit = np.divide(given, scale, out=np.zeros_like(given), where=scale > 0)
        nearest = np.abs(unit[..., None] - grid).min(-1)
        assert np.allclose(np.abs(meant - given), nearest * scale + (scale == 0) * np.abs(given))
        largest = np.abs(unit).reshape(len(unit), -1, group).max(-1)
        assert largest.max() < 1.5 * grid.max(), "the scale lets numbers be cut off"


@pytest.mark.parametrize(
    ("choice", "dtype"),
    [
        ({"mode": "bf16"}, "bfloat16"),
        ({"mode": "fp16"}, "float16"),
        ({"bits": 16}, "bfloat16"),
        ({"bits": 16, "dtype": "float16"}, "float16"),
        ({"bits": 16, "dtype": "float32"}, "float32"),
    ],
)
def test_unquantized_weights_are_the_source_rounded_once(
    choice: dict[str, Any],
    dtype: str,
    source: Path,
    weights: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    tensors = read_folder(convert_checkpoint(source, tmp_path / "out", **choice).dest)
    assert tensors.keys() == weights.keys()
    for name, array in weights.items():
        assert np.array_equal(tensors[name], in_dtype(array, dtype)), name


@pytest.mark.parametrize(
    "params",
    [{"bits": bits, "group_size": group, "mode": "affine"} for bits, group in AFFINE]
    + [{"bits": bits, "group_size": group, "mode": mode} for mode, (bits, group) in FIXED.items()],
    ids=lambda params: "{mode}-{bits}-{group_size}".format(**params),
)
def test_slabs_side_by_side_are_the_whole_matrix_quantized_at_once(
    params: dict[str, Any], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlx_mistral.convert import writing

    monkeypatch.setattr(writing, "SLAB_BYTES", 3000)
    made = Checkpoint(convert_checkpoint(source, tmp_path / "out", **params).dest)
    for name, parameter in (given := Checkpoint(source)).parameters.items():
        whole = given.read(name, mx.bfloat16)
        module = name.removesuffix(".weight")
        parts = [whole] if len(parameter.shape) == 1 else mx.quantize(whole, **params)
        for part, array in zip(("weight", "scales", "biases"), parts, strict=False):
            found = made.read(f"{module}.{part}", mx.bfloat16)
            assert found.dtype == array.dtype
            assert mx.array_equal(found.view(mx.uint8), array.view(mx.uint8)), f"{module}.{part}"
