"""The same weights from any layout become the same folder, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.convert import convert_checkpoint
from tests.checkpoint.models import (
    HF_CONFIG,
    PARAMS,
    PARAMS_MOE,
    hf_weights,
    official_weights,
    old_mixtral_weights,
    pair_rows,
    write_hf,
    write_official,
    write_sharded,
)
from tests.checkpoint.writers import bfloat16_bits, write_json, write_safetensors, write_torch
from tests.convert.folders import contents

Arrays = dict[str, np.ndarray]
BOTH: list[dict[str, Any]] = [
    {"bits": 4, "group_size": 32},
    {"recipe": "mixed_3_6", "group_size": 32, "shard_bytes": 30_000},
    {"mode": "nvfp4"},
    {"mode": "bf16"},
]


def torch_folder(folder: Path, arrays: Arrays, params: dict[str, Any]) -> Path:
    """As two files, the way large models came."""
    folder.mkdir()
    write_json(folder / "params.json", params)
    names = sorted(arrays)
    write_torch(folder / "consolidated.00.pth", {name: arrays[name] for name in names[::2]})
    write_torch(folder / "consolidated.01.pth", {name: arrays[name] for name in names[1::2]})
    return folder


def transposed(arrays: Arrays) -> Arrays:
    return {name: np.asfortranarray(array) for name, array in arrays.items()}


def stored(*, moe: bool) -> Arrays:
    return {name: bfloat16_bits(array) for name, array in hf_weights(moe=moe).items()}


DENSE, MOE = stored(moe=False), stored(moe=True)
LAYOUTS: dict[str, tuple[bool, Callable[[Path], Path]]] = {
    "official": (False, lambda p: write_official(p, official_weights(DENSE))),
    "sharded": (False, lambda p: write_sharded(p, DENSE)),
    "torch": (False, lambda p: torch_folder(p, transposed(official_weights(DENSE)), PARAMS)),
    "moe-official": (True, lambda p: write_official(p, official_weights(MOE), moe=True)),
    "moe-official-old": (True, lambda p: write_official(p, old_mixtral_weights(MOE), moe=True)),
    "moe-sharded": (True, lambda p: write_sharded(p, MOE, moe=True)),
    "moe-torch-old": (True, lambda p: torch_folder(p, old_mixtral_weights(MOE), PARAMS_MOE)),
}


@pytest.fixture(scope="module", params=BOTH, ids=lambda c: "-".join(map(str, c.values())))
def expected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], dict[bool, dict[str, bytes]]]:
    """What plain Hugging Face folders become: dense and mixture."""
    made = {}
    for moe, weights in ((False, DENSE), (True, MOE)):
        place = tmp_path_factory.mktemp("expected")
        source = write_hf(place / "source", weights, moe=moe)
        made[moe] = contents(convert_checkpoint(source, place / "out", **request.param).dest)
    return request.param, made


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_same_weights_becomes_the_same_files(
    layout: str, expected: tuple[dict[str, Any], dict[bool, dict[str, bytes]]], tmp_path: Path
) -> None:
    choices, made = expected
    moe, write = LAYOUTS[layout]
    assert (
        contents(convert_checkpoint(write(tmp_path / "s"), tmp_path / "out", **choices).dest)
        == (made[moe])
    )


@pytest.mark.parametrize("layout", ["hf", "official"])
@pytest.mark.parametrize("choices", BOTH, ids=lambda c: "-".join(map(str, c.values())))
def test_fp8_weights_become_what_their_numbers_become(
    layout: str, choices: dict[str, Any], tmp_path: Path
) -> None:
    """One scale a tensor, a row and a block, against a folder of the products in float32."""
    rng = np.random.default_rng(3)
    meant: Arrays = hf_weights()
    scaled: Arrays = dict(meant)
    shapes = {"q_proj": (), "k_proj": (32, 1), "v_proj": (1, 1), "down_proj": (64,)}
    fp8 = [name for name in meant if name.split(".")[-2] in shapes]
    for name in fp8:
        codes = rng.integers(0, 0x7F, meant[name].shape).astype(np.uint8)
        scale = rng.uniform(0.01, 0.02, shapes[name.split(".")[-2]]).astype(np.float32)
        numbers = np.array(mx.from_fp8(mx.array(codes), dtype=mx.float32))
        per_row = scale.reshape(-1, 1) if scale.size > 1 else scale.reshape(())
        scaled[name], meant[name] = codes, numbers * per_row
        scaled[f"{name}_scale_inv"] = scale
    plain = write_hf(tmp_path / "plain", meant)
    folder = tmp_path / "fp8"
    folder.mkdir()
    if layout == "hf":
        config = {**HF_CONFIG, "quantization_config": {"quant_method": "fp8"}}
        write_json(folder / "config.json", config)
        write_safetensors(folder / "model.safetensors", scaled, fp8=tuple(fp8))
    else:
        names = {name: official_weights({name: meant[name]}) for name in meant}
        official, marked = {}, []
        for name, array in scaled.items():
            if name.endswith("_scale_inv"):
                base = name.removesuffix("_scale_inv")
                (theirs,) = names[base]
                paired = array.shape == (32, 1)
                official[theirs.replace("weight", "qscale_weight")] = (
                    pair_rows(array) if paired else array
                )
            else:
                ((theirs, moved),) = official_weights({name: array}).items()
                official[theirs] = moved
                marked += [theirs] if name in fp8 else []
        write_json(folder / "params.json", PARAMS)
        write_safetensors(folder / "consolidated.safetensors", official, fp8=tuple(marked))
    choices = {"dtype": "bfloat16", **choices} if choices.get("mode") != "bf16" else choices
    from_fp8 = convert_checkpoint(folder, tmp_path / "a", **choices)
    assert contents(from_fp8.dest) == contents(
        convert_checkpoint(plain, tmp_path / "b", **choices).dest
    )


def test_two_runs_write_the_same_bytes(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", MOE, moe=True)
    one, other = (
        convert_checkpoint(source, tmp_path / name, group_size=32, shard_bytes=20_000)
        for name in ("one", "other")
    )
    assert contents(one.dest) == contents(other.dest)


def test_shards_hold_whole_parameters_and_the_index_names_each_tensor_once(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", DENSE)
    done = convert_checkpoint(source, tmp_path / "out", group_size=32, shard_bytes=9_000)
    files = contents(done.dest)
    index = json.loads(files["model.safetensors.index.json"])
    shards = sorted(name for name in files if name.endswith(".safetensors"))
    count = len(shards)
    assert count > 3
    assert shards == [f"model-{n + 1:05}-of-{count:05}.safetensors" for n in range(count)]
    found = Checkpoint(done.dest).parameters
    assert index["weight_map"] == {
        name: parameter.pieces[0].tensor.file.name for name, parameter in found.items()
    }
    assert index["metadata"]["total_size"] == sum(one.nbytes for one in found.values())
    assert done.weight_bytes == index["metadata"]["total_size"]
    assert done.tensors == len(found)
    table = {name: one.nbytes for name, one in found.items()}
    filled = [
        sum(table[name] for name, file in index["weight_map"].items() if file == shard)
        for shard in shards
    ]
    begun = [
        sum(size for name, size in table.items() if name.startswith(f"{first}."))
        for first in (_first_module(files[shard]) for shard in shards)
    ]
    for size, own in zip(filled, begun, strict=True):
        assert size <= 9_000 or size == own
    for size, following in zip(filled, begun[1:], strict=False):
        assert size + following > 9_000, "it would have fitted"


def _first_module(shard: bytes) -> str:
    """Of the parameter that a file begins with."""
    header = json.loads(shard[8 : 8 + int.from_bytes(shard[:8], "little")])
    return next(name for name in header if name != "__metadata__").rpartition(".")[0]


def test_tensors_begin_where_their_numbers_may_be_mapped(tmp_path: Path) -> None:
    """The header is filled up to eight bytes, as the format asks for."""
    source = write_hf(tmp_path / "source", DENSE)
    done = convert_checkpoint(source, tmp_path / "out", group_size=32)
    for file in done.dest.glob("*.safetensors"):
        assert int.from_bytes(file.read_bytes()[:8], "little") % 8 == 0


def test_the_manifest_names_each_file_with_its_size_and_hash(tmp_path: Path) -> None:
    import hashlib

    source = write_hf(tmp_path / "source", DENSE)
    done = convert_checkpoint(source, tmp_path / "out", group_size=32, shard_bytes=30_000)
    files = contents(done.dest)
    manifest = json.loads(files.pop("conversion.json"))
    assert manifest["files"] == {
        name: {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        for name, raw in files.items()
    }
    assert manifest["plan"] == done.plan.to_json()
