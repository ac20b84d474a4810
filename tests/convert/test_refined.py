"""Rounding by importance in the converter: each expert by its own, in every layout."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.config import QuantParams
from mlx_mistral.convert import Plan, convert_checkpoint, writing
from mlx_mistral.convert.measured.refine import refine
from mlx_mistral.convert.plan import matrices_of
from tests.checkpoint.models import (
    EXPERTS,
    PARAMS_MOE,
    hf_weights,
    old_mixtral_weights,
    write_hf,
    write_official,
)

PARAMS = QuantParams(bits=3, group_size=32)


def write(kind: str, folder: Path) -> Path:
    weights = hf_weights(moe=True)
    if kind == "blocks":
        return write_official(folder, old_mixtral_weights(weights), moe=True)
    return write_hf(folder, weights, moe=True)


def plan_of(checkpoint: Checkpoint) -> Plan:
    rng = np.random.default_rng(5)
    matrices = matrices_of(checkpoint.parameters)
    importance = {}
    for matrix in matrices:
        shape = (*([EXPERTS] if len(matrix.shape) == 3 else []), matrix.shape[-1])
        importance[matrix.path] = mx.array(rng.exponential(size=shape) ** 3)
    del importance["model.embed_tokens"]  # looked up, never multiplied
    formats = {matrix.path: PARAMS for matrix in matrices}
    return Plan(recipe="measured", formats=formats, dtype="bfloat16", importance=importance)


@pytest.mark.parametrize("kind", ["experts apart", "blocks"])
def test_slabs_are_rounded_as_the_whole_matrix_is(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert PARAMS_MOE["moe"]["num_experts"] == EXPERTS
    monkeypatch.setattr(writing, "REFINED_SLAB_BYTES", 3000)
    source = Checkpoint(write(kind, tmp_path / "source"))
    plan = plan_of(source)
    made = Checkpoint(convert_checkpoint(tmp_path / "source", tmp_path / "out", plan=plan).dest)
    for path in plan.formats:
        whole = source.read(f"{path}.weight", mx.bfloat16)
        if path in plan.importance:
            expected = refine(whole, PARAMS, plan.importance[path])
        else:
            expected = mx.quantize(whole, group_size=32, bits=3)
        for part, array in zip(("weight", "scales", "biases"), expected, strict=True):
            found = made.read(f"{path}.{part}", mx.bfloat16)
            assert mx.array_equal(found, array), f"{path}.{part}"


def test_another_importance_is_another_conversion(tmp_path: Path) -> None:
    folder = write("experts apart", tmp_path / "source")
    plan = plan_of(Checkpoint(folder))
    heard = []

    def stop(progress: object) -> None:
        heard.append(progress)
        if len(heard) == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert_checkpoint(folder, tmp_path / "out", plan=plan, shard_bytes=1, progress=stop)
    other = replace(plan, importance={path: 1 + one for path, one in plan.importance.items()})
    for same, remark in ((plan, "kept"), (other, "something else")):
        copy = tmp_path / remark
        copy.mkdir()
        shutil.copytree(tmp_path / ".out.converting", copy / ".out.converting")
        done = convert_checkpoint(folder, copy / "out", plan=same, shard_bytes=1)
        assert remark in (done.note or "")
