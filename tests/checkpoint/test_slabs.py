"""Slabs of any size, put together, are the parameter that is read at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.checkpoint.slabs import SlabReader, decode, slabs_of
from mlx_mistral.errors import CheckpointError
from tests.checkpoint.models import (
    HF_CONFIG,
    PARAMS,
    PARAMS_MOE,
    hf_weights,
    official_weights,
    old_mixtral_weights,
    write_hf,
    write_official,
    write_sharded,
)
from tests.checkpoint.writers import bfloat16_bits, write_json, write_safetensors, write_torch

Arrays = dict[str, np.ndarray]


def halves(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def brains(arrays: Arrays) -> Arrays:
    return {name: bfloat16_bits(array) for name, array in arrays.items()}


def torch_folder(folder: Path, arrays: Arrays, *, moe: bool = False) -> Path:
    folder.mkdir()
    write_json(folder / "params.json", PARAMS_MOE if moe else PARAMS)
    write_torch(folder / "consolidated.00.pth", arrays)
    return folder


def fp8_folder(folder: Path, *, official: bool) -> Path:
    """Matrices larger than a block, one for each shape of scale."""
    rng = np.random.default_rng(0)
    shapes = {"q": (3, 2), "k": (304, 1), "v": (), "o": (304,)}
    arrays: Arrays = {}
    for letter, shape in shapes.items():
        path = f"layers.0.attention.w{letter}" if official else None
        path = path or f"model.layers.0.self_attn.{letter}_proj"
        codes = rng.integers(0, 0x7F, (304, 200)) + 128 * rng.integers(0, 2, (304, 200))
        arrays[f"{path}.weight"] = codes.astype(np.uint8)
        scale = rng.uniform(0.01, 0.02, shape).astype(np.float32)
        part = "qscale_weight" if official else "weight_scale_inv"
        arrays[f"{path}.{part}"] = bfloat16_bits(scale) if letter == "k" else scale
    folder.mkdir()
    if official:
        write_json(folder / "params.json", {**PARAMS, "n_layers": 1})
    else:
        write_json(folder / "config.json", {**HF_CONFIG, "num_hidden_layers": 1})
    file = "consolidated.safetensors" if official else "model.safetensors"
    fp8 = tuple(name for name, array in arrays.items() if array.dtype == np.uint8)
    write_safetensors(folder / file, arrays, fp8=fp8)
    return folder


DENSE, MOE = hf_weights(), hf_weights(moe=True)
FOLDERS: dict[str, Callable[[Path], Path]] = {
    "hf-f32": lambda folder: write_hf(folder, DENSE),
    "hf-f16-sharded-experts": lambda folder: write_sharded(folder, halves(MOE), moe=True),
    "hf-bf16": lambda folder: write_hf(folder, brains(DENSE)),
    "official-bf16-pairs": lambda folder: write_official(folder, brains(official_weights(DENSE))),
    "official-blocks-transposed": lambda folder: write_official(
        folder, brains(old_mixtral_weights(MOE)), moe=True
    ),
    "torch": lambda folder: torch_folder(folder, brains(official_weights(DENSE))),
    "torch-transposed": lambda folder: torch_folder(
        folder, {n: np.asfortranarray(a) for n, a in halves(official_weights(DENSE)).items()}
    ),
    "torch-blocks": lambda folder: torch_folder(folder, old_mixtral_weights(MOE), moe=True),
    "fp8-hf": lambda folder: fp8_folder(folder, official=False),
    "fp8-official-pairs": lambda folder: fp8_folder(folder, official=True),
}


@pytest.fixture(scope="module", params=FOLDERS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> object:
    return Checkpoint(FOLDERS[request.param](tmp_path_factory.mktemp("slabs") / request.param))


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16], ids=str)
@settings(max_examples=8, deadline=None)
@given(slab_bytes=st.one_of(st.just(1), st.integers(1, 40_000)))
def test_slabs_of_any_size_are_the_parameter(
    checkpoint: Checkpoint, dtype: mx.Dtype, slab_bytes: int
) -> None:
    reader = SlabReader(dtype)
    for name, parameter in checkpoint.parameters.items():
        if checkpoint.config.moe and "layers.1" in name:
            continue
        expected = checkpoint.read(name, dtype).reshape(-1, parameter.shape[-1])
        slabs = list(slabs_of(parameter, checkpoint.config, slab_bytes=slab_bytes))
        position, parts = 0, []
        for slab in slabs:
            assert slab.first_row == position
            part = decode(reader.read(slab), checkpoint.config, dtype)
            assert part.shape == (slab.n_rows, parameter.shape[-1])
            parts.append(part)
            position += slab.n_rows
        found = mx.concatenate(parts)
        assert found.dtype == expected.dtype
        assert mx.array_equal(found.view(mx.uint8), expected.view(mx.uint8)), name
    reader.close()


def test_slabs_are_no_larger_than_asked_for_or_than_what_belongs_together(
    checkpoint: Checkpoint,
) -> None:
    head, row_of_blocks = checkpoint.config.head_dim, 128
    for parameter in checkpoint.parameters.values():
        for limit in (1, 5_000, 10**9):
            slabs = list(slabs_of(parameter, checkpoint.config, slab_bytes=limit))
            for slab in slabs:
                rows = math.prod(slab.piece.tensor.shape[:-1])
                row_bytes = slab.piece.tensor.nbytes // rows
                together = head if slab.piece.form == "interleaved" else 1
                if slab.piece.scale:
                    together = math.lcm(together, row_of_blocks)
                if slab.is_transposed:
                    together = rows // parameter.shape[0]
                assert slab.stored_rows * row_bytes <= max(limit, together * row_bytes)
            if limit == 10**9 and not slabs[0].is_transposed:
                # One for each expert, however experts are stored.
                experts = parameter.shape[0] if len(parameter.shape) == 3 else 1
                assert [slab.expert for slab in slabs] == list(range(experts))


SPECIAL = {
    "NaN": np.nan,
    "infinity": np.inf,
    "minus infinity": -np.inf,
}


@pytest.mark.parametrize("number", SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("kind", ["f4", "f2", "bf16"])
def test_what_is_no_number_is_refused(kind: str, number: float, tmp_path: Path) -> None:
    weights = {**DENSE, "lm_head.weight": DENSE["lm_head.weight"].copy()}
    weights["lm_head.weight"][79, 63] = number
    stored = brains(weights) if kind == "bf16" else {n: a.astype(kind) for n, a in weights.items()}
    checkpoint = Checkpoint(write_hf(tmp_path / "model", stored))
    slabs = list(
        slabs_of(checkpoint.parameters["lm_head.weight"], checkpoint.config, slab_bytes=999)
    )
    reader = SlabReader(mx.bfloat16)
    for slab in slabs[:-1]:
        reader.read(slab)
    with pytest.raises(CheckpointError, match=r"lm_head.weight.*NaN or infinity"):
        reader.read(slabs[-1])


@pytest.mark.parametrize(
    ("number", "fits"), [(65504.0, True), (-65504.0, True), (65536.0, False), (-1e9, False)]
)
@pytest.mark.parametrize("kind", ["f4", "bf16"])
def test_what_float16_cannot_hold_is_refused_for_it_alone(
    kind: str, number: float, fits: bool, tmp_path: Path
) -> None:
    weights = {**DENSE, "lm_head.weight": DENSE["lm_head.weight"].copy()}
    weights["lm_head.weight"][0, 0] = number
    checkpoint = Checkpoint(
        write_hf(tmp_path / "model", brains(weights) if kind == "bf16" else weights)
    )
    (slab,) = slabs_of(checkpoint.parameters["lm_head.weight"], checkpoint.config)
    assert mx.isfinite(
        decode(SlabReader(mx.bfloat16).read(slab), checkpoint.config, mx.bfloat16)
    ).all()
    if fits:
        raw = SlabReader(mx.float16).read(slab)
        assert mx.isfinite(decode(raw, checkpoint.config, mx.float16)).all()
        return
    with pytest.raises(CheckpointError, match="too large for float16; use bfloat16"):
        SlabReader(mx.float16).read(slab)


def one_scaled_matrix(folder: Path, scale: np.ndarray) -> Checkpoint:
    """Of FP8's largest number, 448."""
    folder.mkdir()
    name = "model.layers.0.self_attn.v_proj.weight"
    write_json(folder / "config.json", {**HF_CONFIG, "num_hidden_layers": 1})
    arrays = {name: np.full((32, 64), 0x7E, np.uint8), f"{name}_scale_inv": scale}
    write_safetensors(folder / "model.safetensors", arrays, fp8=(name,))
    return Checkpoint(folder)


@pytest.mark.parametrize(
    ("scale", "dtype", "message"),
    [
        (np.nan, mx.bfloat16, "NaN or infinity"),
        (np.inf, mx.bfloat16, "NaN or infinity"),
        (147, mx.float16, "too large for float16"),
    ],
)
def test_scales_of_fp8_are_looked_at_too(
    scale: float, dtype: mx.Dtype, message: str, tmp_path: Path
) -> None:
    checkpoint = one_scaled_matrix(tmp_path / "model", np.float32([scale]))
    (slab,) = slabs_of(*checkpoint.parameters.values(), checkpoint.config)
    with pytest.raises(CheckpointError, match=message):
        SlabReader(dtype).read(slab)


@pytest.mark.parametrize("scale", [np.float32(146.21428), np.float16(146.125)])
def test_the_largest_scale_of_fp8_that_float16_holds_is_taken(
    scale: np.floating, tmp_path: Path
) -> None:
    checkpoint = one_scaled_matrix(tmp_path / "model", scale.reshape(1))
    (slab,) = slabs_of(*checkpoint.parameters.values(), checkpoint.config)
    array = decode(SlabReader(mx.float16).read(slab), checkpoint.config, mx.float16)
    assert mx.isfinite(array).all()


def test_a_file_that_shrinks_while_it_is_read_is_one_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write_hf(tmp_path / "model", MOE, moe=True))
    file = tmp_path / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    last = max(checkpoint.parameters.values(), key=lambda one: one.pieces[-1].tensor.end)
    *_, slab = slabs_of(last, checkpoint.config)
    with pytest.raises(CheckpointError, match="became shorter"):
        SlabReader(mx.bfloat16).read(slab)
