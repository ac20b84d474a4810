"""What a checkpoint is, from its headers alone: the counts that Mistral publishes."""

from __future__ import annotations

import json
import math
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral.checkpoint import read_folder
from mlx_mistral.errors import ConfigError
from tests.checkpoint.models import hf_weights, official_weights, write_hf, write_official

BF16 = 2


def sparse_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """A file of full size that takes no room: all header, the data a hole."""
    header, position = {}, 0
    for name, (dtype, shape, nbytes) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position, position + nbytes],
        }
        position += nbytes
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + position)


def full_size(folder: Path, params: dict[str, Any]) -> Path:
    """An official folder with the tensors that a params.json asks for."""
    dim, hidden, vocab = params["dim"], params["hidden_dim"], params["vocab_size"]
    queries = params["n_heads"] * params["head_dim"]
    keys = params["n_kv_heads"] * params["head_dim"]
    experts = params.get("moe", {}).get("num_experts")
    shapes: dict[str, list[int]] = {"tok_embeddings.weight": [vocab, dim], "norm.weight": [dim]}
    if not params.get("tied_embeddings"):
        shapes["output.weight"] = [vocab, dim]
    for n in range(params["n_layers"]):
        layer = f"layers.{n}"
        shapes |= {
            f"{layer}.attention.wq.weight": [queries, dim],
            f"{layer}.attention.wk.weight": [keys, dim],
            f"{layer}.attention.wv.weight": [keys, dim],
            f"{layer}.attention.wo.weight": [dim, queries],
            f"{layer}.attention_norm.weight": [dim],
            f"{layer}.ffn_norm.weight": [dim],
        }
        blocks = [f"{layer}.feed_forward.experts.{e}" for e in range(experts or 0)]
        for block in blocks or [f"{layer}.feed_forward"]:
            for name, shape in (
                ("w1", [hidden, dim]),
                ("w2", [dim, hidden]),
                ("w3", [hidden, dim]),
            ):
                shapes[f"{block}.{name}.weight"] = shape
        if experts:
            shapes[f"{layer}.feed_forward.gate.weight"] = [experts, dim]
    tensors = {}
    for name, shape in shapes.items():
        tensors[name] = ("BF16", shape, BF16 * math.prod(shape))
    (folder / "params.json").write_text(json.dumps(params))
    sparse_safetensors(folder / "consolidated.safetensors", tensors)
    return folder


MISTRAL = {
    "dim": 4096, "n_layers": 32, "head_dim": 128, "hidden_dim": 14336, "n_heads": 32,
    "n_kv_heads": 8, "norm_eps": 1e-5, "vocab_size": 32768, "rope_theta": 1e6,
}  # fmt: skip
MIXTRAL = MISTRAL | {"vocab_size": 32000, "moe": {"num_experts_per_tok": 2, "num_experts": 8}}
MINISTRAL_3B = {
    "dim": 3072, "n_layers": 26, "head_dim": 128, "hidden_dim": 9216, "n_heads": 32,
    "n_kv_heads": 8, "rope_theta": 1e6, "norm_eps": 1e-5, "vocab_size": 131072,
    "tied_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("params", "total", "active"),
    [
        # arXiv:2401.04088, section 2: 46.7B parameters, 12.9B for a token; the model cards.
        (MIXTRAL, 46.7e9, 12.9e9),
        (MISTRAL, 7.25e9, 7.25e9),
        (MINISTRAL_3B, 3.43e9, 3.43e9),
    ],
    ids=["mixtral-8x7b", "mistral-7b-v0.3", "ministral-3-3b"],
)
def test_counts_are_those_that_mistral_publishes(
    params: dict[str, Any], total: float, active: float, tmp_path: Path
) -> None:
    headers = read_folder(full_size(tmp_path, params))
    assert headers.parameter_count == pytest.approx(total, rel=1.5e-3)
    assert headers.active_parameter_count == pytest.approx(active, rel=2e-3)
    assert headers.weight_bytes == BF16 * headers.parameter_count


@pytest.mark.parametrize("moe", [False, True])
def test_layouts_agree_on_names_shapes_and_counts(moe: bool, tmp_path: Path) -> None:
    weights = hf_weights(moe=moe)
    hf = read_folder(write_hf(tmp_path / "hf", weights, moe=moe))
    official = read_folder(write_official(tmp_path / "o", official_weights(weights), moe=moe))
    assert (hf.layout, official.layout) == ("hf", "official")
    assert hf.config == official.config
    for headers in (hf, official):
        assert headers.parameter_count == sum(array.size for array in weights.values())
        assert headers.weight_bytes == sum(array.nbytes for array in weights.values())
    assert {n: p.shape for n, p in hf.parameters.items()} == {
        n: p.shape for n, p in official.parameters.items()
    }


@pytest.mark.parametrize(
    ("bits", "mode"), [(4, "affine"), (3, "affine"), (8, "mxfp8"), (4, "mxfp4")]
)
def test_quantized_weights_count_as_what_they_stand_for(
    bits: int, mode: str, tmp_path: Path
) -> None:
    weights = hf_weights()
    stored: dict[str, mx.array] = {}
    for name, array in weights.items():
        if "_proj" not in name:
            stored[name] = mx.array(array)
            continue
        names = ["weight", "scales", "biases"]
        parts = mx.quantize(mx.array(array), group_size=32, bits=bits, mode=mode)
        stored |= {name.replace("weight", n): p for n, p in zip(names, parts, strict=False)}
    write_hf(tmp_path, {}, quantization={"group_size": 32, "bits": bits, "mode": mode})
    mx.save_safetensors(str(tmp_path / "model.safetensors"), stored)
    headers = read_folder(tmp_path)
    assert headers.layout == "mlx"
    assert headers.parameter_count == sum(array.size for array in weights.values())
    assert headers.weight_bytes == sum(array.nbytes for array in stored.values())


def test_headers_are_read_without_mlx(tmp_path: Path) -> None:
    write_official(tmp_path, official_weights(hf_weights()))
    code = (
        "import sys\n"
        "from mlx_mistral.checkpoint import read_folder\n"
        "assert read_folder(sys.argv[1]).parameter_count > 0\n"
        "assert not any(m.split('.')[0] == 'mlx' for m in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def test_an_error_in_a_configuration_names_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "some-model"
    shutil.copytree(Path(__file__).parents[1] / "recordings" / "mistral", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "qk_norm": True}))
    with pytest.raises(
        ConfigError, match=r"some-model: config\.json has the unknown key 'qk_norm'"
    ):
        read_folder(folder)
