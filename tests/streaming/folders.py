"""A tiny Mixtral in every layout and stored form that its experts can be read from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from tests.checkpoint.models import (
    EXPERTS,
    HF_MOE,
    LAYERS,
    PARAMS_MOE,
    hf_weights,
    official_weights,
    old_mixtral_weights,
    write_hf,
    write_official,
    write_sharded,
)
from tests.checkpoint.writers import (
    bfloat16_bits,
    write_json,
    write_safetensors,
    write_torch,
)

Arrays = dict[str, np.ndarray]
MOE = hf_weights(moe=True)
PROJECTIONS = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def brains(arrays: Arrays) -> Arrays:
    return {name: bfloat16_bits(array) for name, array in arrays.items()}


def halves(arrays: Arrays) -> Arrays:
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def stacked(weights: Arrays) -> dict[str, mx.array]:
    """Each layer's experts in three tensors (E, out, in), as converted checkpoints have them."""
    out = {name: mx.array(array) for name, array in weights.items() if ".experts." not in name}
    for n in range(LAYERS):
        block = f"model.layers.{n}.block_sparse_moe"
        for projection, matrix in PROJECTIONS.items():
            experts = [weights[f"{block}.experts.{e}.{matrix}.weight"] for e in range(EXPERTS)]
            out[f"{block}.switch_mlp.{projection}.weight"] = mx.array(np.stack(experts))
    return out


def save(folder: Path, arrays: dict[str, mx.array], quantization: dict[str, Any] | None) -> Path:
    folder.mkdir(parents=True)
    block = {} if quantization is None else {"quantization": quantization}
    write_json(folder / "config.json", {**HF_MOE, **block})
    mx.save_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


def quantized(folder: Path, mode: str, bits: int, group: int, *, scales: mx.Dtype) -> Path:
    arrays: dict[str, mx.array] = {}
    for name, array in stacked(MOE).items():
        if ".switch_mlp." not in name:
            arrays[name] = array
            continue
        weight, scale, *bias = mx.quantize(array, group_size=group, bits=bits, mode=mode)
        arrays[name] = weight
        path = name.removesuffix(".weight")
        is_code = scale.dtype == mx.uint8
        arrays[f"{path}.scales"] = scale if is_code else scale.astype(scales)
        if bias:
            arrays[f"{path}.biases"] = bias[0].astype(scales)
    return save(folder, arrays, {"group_size": group, "bits": bits, "mode": mode})


def mixed(folder: Path) -> Path:
    """One layer's experts in two widths, the other's in full: their sizes differ."""
    arrays: dict[str, mx.array] = {}
    quantization: dict[str, Any] = {"group_size": 32, "bits": 4}
    for name, array in stacked(MOE).items():
        path = name.removesuffix(".weight")
        arrays[name] = array
        if ".switch_mlp." in name and ".layers.1." in name:
            quantization[path] = False
        elif ".switch_mlp." in name:
            bits = 8 if "down_proj" in name else 4
            quantization[path] = {"group_size": 32, "bits": bits}
            for part, one in zip(
                ("weight", "scales", "biases"),
                mx.quantize(array, group_size=32, bits=bits),
                strict=True,
            ):
                arrays[f"{path}.{part}"] = one
    return save(folder, arrays, quantization)


def fp8(folder: Path) -> Path:
    """Expert by expert in E4M3, with a scale a tensor, a row or a block."""
    rng, arrays = np.random.default_rng(0), dict(MOE)
    for name in [name for name in MOE if ".experts." in name]:
        rows, _ = MOE[name].shape
        arrays[name] = rng.integers(0, 0x60, MOE[name].shape).astype(np.uint8)
        shape = {"w1": (), "w2": (rows,), "w3": (1, 1)}[name.split(".")[-2]]
        scale = rng.uniform(0.01, 0.02, shape).astype(np.float32)
        arrays[name.replace(".weight", ".weight_scale_inv")] = scale
    folder.mkdir(parents=True)
    write_json(folder / "config.json", HF_MOE)
    codes = tuple(name for name, array in arrays.items() if array.dtype == np.uint8)
    write_safetensors(folder / "model.safetensors", arrays, fp8=codes)
    return folder


def torch(folder: Path, arrays: Arrays) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "params.json", PARAMS_MOE)
    write_torch(folder / "consolidated.00.pth", arrays)
    return folder


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "hf-f32": lambda folder: write_hf(folder, MOE, moe=True),
    "hf-bf16-sharded": lambda folder: write_sharded(folder, brains(MOE), moe=True),
    "official-f16": lambda folder: write_official(folder, halves(official_weights(MOE)), moe=True),
    "official-blocks-bf16": lambda folder: write_official(
        folder, brains(old_mixtral_weights(MOE)), moe=True
    ),
    "torch-blocks": lambda folder: torch(
        folder, {n: np.ascontiguousarray(one) for n, one in old_mixtral_weights(MOE).items()}
    ),
    "mlx-stacked": lambda folder: save(folder, stacked(MOE), None),
    "mlx-affine-3": lambda folder: quantized(folder, "affine", 3, 32, scales=mx.bfloat16),
    "mlx-affine-4": lambda folder: quantized(folder, "affine", 4, 32, scales=mx.float32),
    "mlx-mxfp4": lambda folder: quantized(folder, "mxfp4", 4, 32, scales=mx.float32),
    "mlx-nvfp4": lambda folder: quantized(folder, "nvfp4", 4, 16, scales=mx.float32),
    "mlx-mxfp8": lambda folder: quantized(folder, "mxfp8", 8, 32, scales=mx.float32),
    "mlx-mixed": mixed,
    "hf-fp8": fp8,
}
