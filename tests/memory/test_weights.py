from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_mistral import ModelConfig
from mlx_mistral.checkpoint import load_model, read_folder
from mlx_mistral.config import QuantParams
from mlx_mistral.memory import loading_bytes, matrix_bytes_in_memory, weights_in_memory
from mlx_mistral.memory.weights import holds_plain_experts, uniform_weights_in_memory
from mlx_mistral.model import Model
from tests.checkpoint.models import (
    HF_CONFIG,
    HF_MOE,
    hf_weights,
    official_weights,
    old_mixtral_weights,
    write_hf,
    write_official,
)
from tests.checkpoint.writers import write_json, write_safetensors

AFFINE = [
    QuantParams(group_size=group, bits=bits) for bits in (2, 3, 4, 5, 6, 8) for group in (32, 128)
]
FIXED = [
    QuantParams(group_size=32, bits=4, mode="mxfp4"),
    QuantParams(group_size=16, bits=4, mode="nvfp4"),
    QuantParams(group_size=32, bits=8, mode="mxfp8"),
]


def nbytes(model: nn.Module) -> int:
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return sum(array.nbytes for array in parameters.values())


@pytest.mark.parametrize("shape", [(48, 256), (3, 16, 128)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
@pytest.mark.parametrize("params", [*AFFINE, *FIXED, None], ids=str)
def test_a_matrix_takes_what_mlx_makes_of_it(
    shape: tuple[int, ...], dtype: mx.Dtype, params: QuantParams | None
) -> None:
    weight = mx.random.normal(shape).astype(dtype)
    arrays = [weight]
    if params is not None:
        arrays = mx.quantize(
            weight, group_size=params.group_size, bits=params.bits, mode=params.mode
        )
    expected = sum(array.nbytes for array in arrays)
    assert matrix_bytes_in_memory(shape, params, dtype.size) == expected


def official(folder: Path) -> Path:
    return write_official(folder, official_weights(hf_weights()))


def old_mixtral(folder: Path) -> Path:
    return write_official(folder, old_mixtral_weights(hf_weights(moe=True)), moe=True)


def half(folder: Path) -> Path:
    return write_hf(folder, {k: v.astype(np.float16) for k, v in hf_weights().items()})


def mixtral(folder: Path) -> Path:
    return write_hf(folder, hf_weights(moe=True), moe=True)


def quantized(folder: Path) -> Path:
    """Four bits, but for what `nn.quantize` leaves out by this rule: the head."""
    folder.mkdir(parents=True)
    model = Model(ModelConfig.from_hf(HF_MOE))
    nn.quantize(
        model,
        group_size=32,
        bits=4,
        class_predicate=lambda path, module: (
            hasattr(module, "to_quantized") and not path.endswith(("gate", "lm_head"))
        ),
    )
    block = {"group_size": 32, "bits": 4, "lm_head": False}
    write_json(folder / "config.json", {**HF_MOE, "quantization": block})
    arrays = {name: np.array(array) for name, array in tree_flatten(model.parameters())}
    write_safetensors(folder / "model.safetensors", arrays)
    return folder


@pytest.mark.parametrize("write", [official, old_mixtral, half, mixtral, quantized])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_counted_as_a_loaded_model_holds_them(
    tmp_path: Path, write: Callable[[Path], Path], dtype: str
) -> None:
    folder = write(tmp_path / "model")
    model = load_model(folder, dtype=dtype)
    headers = read_folder(folder)
    size = 4 if dtype == "float32" else 2
    assert weights_in_memory(headers.parameters, size) == nbytes(model)
    assert holds_plain_experts(headers.parameters) == (write in (old_mixtral, mixtral))


@pytest.mark.parametrize("write", [half, mixtral])
def test_uniform_bits_take_what_mlx_makes_of_the_model(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    # Rows of 96 weights cannot be cut into groups of 64 and stay as they are.
    folder = write(tmp_path / "model")
    model = load_model(folder, dtype="float32")
    nn.quantize(
        model,
        group_size=64,
        bits=3,
        class_predicate=lambda path, module: (
            hasattr(module, "to_quantized")
            and module.weight.shape[-1] % 64 == 0
            and not path.endswith("gate")
        ),
    )
    assert uniform_weights_in_memory(read_folder(folder).parameters, 3, 4) == nbytes(model)


@pytest.mark.parametrize("write", [half, mixtral, old_mixtral, quantized, official])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loading_never_holds_more_than_the_weights_and_what_is_said(
    tmp_path: Path, write: Callable[[Path], Path], dtype: str
) -> None:
    folder = write(tmp_path / "model")
    parameters = read_folder(folder).parameters
    size = 4 if dtype == "float32" else 2
    promised = weights_in_memory(parameters, size) + loading_bytes(parameters, dtype)
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(folder, dtype=dtype)
    # RoPE's and other constants, a few bytes each.
    assert mx.get_peak_memory() - before <= promised + 4096
    assert nbytes(model) <= promised


def test_what_is_stored_as_it_is_used_needs_only_the_group_that_is_joined(tmp_path: Path) -> None:
    parameters = read_folder(half(tmp_path / "model")).parameters
    gate_and_up = 2 * HF_CONFIG["intermediate_size"] * HF_CONFIG["hidden_size"]
    assert loading_bytes(parameters, "float16") == 2 * gate_and_up
    assert loading_bytes(parameters, "float32") == 4 * gate_and_up
