"""mlx-lm reads what we write, we read what it writes, and both write the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny import random_ids

from mlx_mistral.checkpoint import load_model
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.convert import convert_checkpoint
from tests.convert.folders import FAMILIES, write_family

mlx_lm_utils = pytest.importorskip("mlx_lm.utils", reason="mlx-lm belongs to the test extra")

TOLERANCE = 3e-5
"""Of logits of order 1: both accumulate in float32, not in the same order."""
MODES: list[dict[str, Any]] = [
    *({"mode": "affine", "bits": bits, "group_size": 32} for bits in (2, 3, 4, 5, 6, 8)),
    {"mode": "affine", "bits": 4, "group_size": 64},
    {"mode": "affine", "bits": 4, "group_size": 128},
    {"mode": "mxfp4", "bits": 4, "group_size": 32},
    {"mode": "nvfp4", "bits": 4, "group_size": 16},
    {"mode": "mxfp8", "bits": 8, "group_size": 32},
]
ROUTER = "block_sparse_moe.gate"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("interop")
    return {family: write_family(place / family, family) for family in FAMILIES}


def float32(model: Any) -> Any:
    """Floats that are not packed; scales of the MX formats are bytes and stay."""
    model.update(
        tree_map(
            lambda one: one.astype(mx.float32) if mx.issubdtype(one.dtype, mx.floating) else one,
            model.parameters(),
        )
    )
    return model


def logits_differ_by(folder: Path) -> float:
    """Between mlx-lm's model of a folder and ours, on a text longer than any window."""
    theirs, config = mlx_lm_utils.load_model(folder)
    tokens = mx.array([random_ids(40, config["vocab_size"])])
    theirs = float32(theirs)
    # Embeddings of the MX formats come as bfloat16, to which its ministral3 rounds query scales.
    embedded = theirs.model.embed_tokens(tokens).astype(mx.float32)
    given = {"input_embeddings": embedded} if config["model_type"] == "ministral3" else {}
    made = theirs(tokens, **given)
    assert 0.1 < np.abs(np.array(made)).max() < 100
    return float(mx.abs(made - load_model(folder, dtype="float32")(tokens)).max())


def by_mlx_lm(source: Path, dest: Path, *, recipe: str | None = None, **params: Any) -> Any:
    """What `mlx_lm.convert` does after it has loaded the model; it would ask for a tokenizer."""
    from mlx_lm.convert import mixed_quant_predicate_builder

    model, config = mlx_lm_utils.load_model(source, lazy=True)
    predicate = None
    if recipe:
        predicate = mixed_quant_predicate_builder(recipe, model, params["group_size"])
    model, config = mlx_lm_utils.quantize_model(model, config, **params, quant_predicate=predicate)
    mlx_lm_utils.save_model(dest, model)
    mlx_lm_utils.save_config(config, dest / "config.json")
    return model


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "choices",
    [
        {"bits": 4, "group_size": 64},
        {"mode": "mxfp4"},
        {"recipe": "mixed_3_6", "group_size": 32},
        {"recipe": "lifted_3"},
        {"mode": "bf16"},
    ],
    ids=lambda choices: "-".join(map(str, choices.values())),
)
def test_mlx_lm_computes_what_we_compute_from_our_folder(
    family: str, choices: dict[str, Any], sources: dict[str, Path], tmp_path: Path
) -> None:
    done = convert_checkpoint(sources[family], tmp_path / "out", **choices, shard_bytes=100_000)
    assert logits_differ_by(done.dest) < TOLERANCE


@pytest.mark.parametrize(
    ("family", "mode"), [("mistral", "nvfp4"), ("mixtral", "mxfp8"), ("mixtral", "fp16")]
)
def test_the_other_modes_too(
    family: str, mode: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    done = convert_checkpoint(sources[family], tmp_path / "out", mode=mode)
    assert logits_differ_by(done.dest) < TOLERANCE


def test_matrices_that_the_groups_do_not_divide_are_left_alone_by_both(tmp_path: Path) -> None:
    source = write_family(tmp_path / "source", "mistral", intermediate_size=160)
    done = convert_checkpoint(source, tmp_path / "ours", group_size=128)
    left = {path for path, params in done.plan.formats.items() if params is None}
    assert left == {f"model.layers.{n}.mlp.down_proj" for n in range(2)}
    assert logits_differ_by(done.dest) < TOLERANCE
    by_mlx_lm(source, tmp_path / "theirs", mode="affine", bits=4, group_size=128)
    found = Checkpoint(tmp_path / "theirs").parameters
    assert {name for name in found if name.endswith(".scales")} == {
        name for name in Checkpoint(done.dest).parameters if name.endswith(".scales")
    }


@pytest.mark.parametrize(
    ("family", "params"),
    [*(("mixtral", params) for params in MODES), ("mistral", MODES[2]), ("nemo", MODES[-1])],
    ids=lambda p: p if isinstance(p, str) else "{mode}-{bits}-{group_size}".format(**p),
)
def test_a_uniform_conversion_holds_the_tensors_that_mlx_lm_makes(
    family: str, params: dict[str, Any], sources: dict[str, Path], tmp_path: Path
) -> None:
    """To the byte; but for routers, which it quantizes and we leave alone. We read its folder."""
    theirs = dict(
        tree_flatten(by_mlx_lm(sources[family], tmp_path / "theirs", **params).parameters())
    )
    made = Checkpoint(convert_checkpoint(sources[family], tmp_path / "ours", **params).dest)
    assert {name for name in theirs if ROUTER not in name} == {
        name for name in made.parameters if ROUTER not in name
    }
    for name in made.parameters:
        if ROUTER not in name:
            ours = made.read(name, mx.bfloat16)
            assert ours.dtype == theirs[name].dtype, name
            assert mx.array_equal(ours.view(mx.uint8), theirs[name].view(mx.uint8)), name
    assert logits_differ_by(tmp_path / "theirs") < TOLERANCE


@pytest.mark.parametrize(
    ("recipe", "family", "layers"),
    [
        ("mixed_2_6", "mistral", 17),
        ("mixed_3_4", "nemo", 9),
        ("mixed_3_6", "mixtral", 16),
        ("mixed_4_6", "mistral", 2),
    ],
)
def test_mixed_recipes_give_each_matrix_the_bits_that_mlx_lm_gives_it(
    recipe: str, family: str, layers: int, tmp_path: Path
) -> None:
    small = {"hidden_size": 32, "head_dim": 8, "intermediate_size": 32, "vocab_size": 32}
    source = write_family(tmp_path / "source", family, num_hidden_layers=layers, **small)
    by_mlx_lm(source, tmp_path / "theirs", recipe=recipe, mode="affine", bits=4, group_size=32)
    theirs = Checkpoint(tmp_path / "theirs").config.quantization
    ours = convert_checkpoint(source, tmp_path / "ours", recipe=recipe, group_size=32)
    assert theirs is not None
    read_back = Checkpoint(ours.dest).config.quantization
    assert read_back is not None
    for path, params in ours.plan.formats.items():
        assert params == theirs.for_path(path) == read_back.for_path(path), path
    assert logits_differ_by(tmp_path / "theirs") < TOLERANCE
    assert logits_differ_by(ours.dest) < TOLERANCE


def test_the_quantization_block_stands_where_both_libraries_look(
    sources: dict[str, Path], tmp_path: Path
) -> None:
    done = convert_checkpoint(sources["mistral"], tmp_path / "out", recipe="mixed_3_6")
    config = json.loads((done.dest / "config.json").read_text())
    assert config["quantization"] == config["quantization_config"]
    assert config["quantization"]["lm_head"] == {"group_size": 64, "bits": 6, "mode": "affine"}
