"""From a request to a plan: what is chosen, what is refused, what fits."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.convert import Request, convert_checkpoint, decide
from mlx_mistral.convert.fit import Room
from mlx_mistral.convert.kept import measurement_key
from mlx_mistral.convert.measured import Damages
from mlx_mistral.convert.plan import matrices_of, planned_bytes
from mlx_mistral.errors import ConversionError, MemoryBudgetError
from tests.checkpoint.models import hf_weights, write_hf

decide_module = importlib.import_module("mlx_mistral.convert.decide")
IDS = [5, 9, 23, 41, 7, 66, 2, 31] * 40


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(
        write_hf(tmp_path_factory.mktemp("source") / "moe", hf_weights(moe=True), moe=True)
    )


def plan_of(checkpoint: Checkpoint, **choices: Any) -> Any:
    # Rows of 96 in these models: groups of 32 divide all of them.
    return decide(checkpoint, Request(**{"group_size": 32, **choices}))


def test_four_bits_are_the_default(checkpoint: Checkpoint) -> None:
    plan = decide(checkpoint, Request(group_size=32))
    assert {(p.bits, p.mode) for p in plan.formats.values()} == {(4, "affine")}


def test_routers_and_norms_are_no_part_of_a_plan(checkpoint: Checkpoint) -> None:
    named = set(plan_of(checkpoint).formats)
    assert named == {matrix.path for matrix in matrices_of(checkpoint.parameters)}
    assert not [path for path in named if path.endswith("block_sparse_moe.gate") or "norm" in path]


def test_sixteen_bits_quantize_nothing(checkpoint: Checkpoint) -> None:
    for choice in ({"bits": 16}, {"mode": "bf16"}, {"mode": "fp16"}):
        plan = decide(checkpoint, Request(**choice))
        assert set(plan.formats.values()) == {None}
        assert plan.dtype == ("float16" if choice == {"mode": "fp16"} else "bfloat16")


@pytest.mark.parametrize(
    "choices",
    [
        {"bits": 7},
        {"bits": 4.5},
        {"bits": 4, "recipe": "lifted_3"},
        {"bits": 16, "recipe": "lifted_3"},
        {"bits": 16, "group_size": 64},
        {"mode": "mxfp4", "recipe": "lifted_3"},
        {"mode": "bf16", "dtype": "float16"},
        {"dtype": "int8"},
        {"recipe": "imagined"},
        {"recipe": "measured"},
        {"recipe": "measured", "calibration": IDS, "mode": "mxfp4"},
        {"recipe": "measured", "calibration": IDS, "fit_bytes": 10**9, "bits": 4},
        {"context": 100},
    ],
    ids=str,
)
def test_what_does_not_go_together_is_one_line(
    checkpoint: Checkpoint, choices: dict[str, Any]
) -> None:
    with pytest.raises(ConversionError) as refused:
        decide(checkpoint, Request(**choices))
    assert "\n" not in str(refused.value)
    assert ";" in str(refused.value), "it says what to do"


def test_the_best_that_fits_is_chosen_and_the_next_larger_would_not_fit(
    checkpoint: Checkpoint,
) -> None:
    chosen = set()
    needs = Room.of(checkpoint, 1, 64).needs(plan_of(checkpoint, bits=16, group_size=None))
    for part in range(1, 20):
        budget = needs.total_bytes - needs.weights_bytes + needs.weights_bytes * part // 20
        room = Room.of(checkpoint, budget, 64)
        try:
            plan = plan_of(checkpoint, fit_bytes=budget, context=64)
        except MemoryBudgetError:
            continue
        assert room.needs(plan).total_bytes <= budget
        larger = [
            other
            for bits in (2, 3, 4, 5, 6, 8)
            if planned_bytes(checkpoint.parameters, other := plan_of(checkpoint, bits=bits))
            > planned_bytes(checkpoint.parameters, plan)
        ]
        assert not [other for other in larger if room.needs(other).fits]
        chosen.add(tuple(plan.to_json()["bits_by_kind"]["up_proj"]))
    assert len(chosen) > 3, "budgets from too small to ample"


def test_what_was_chosen_and_why_is_said(checkpoint: Checkpoint) -> None:
    ample = plan_of(checkpoint, fit_bytes=10**9, context=64)
    assert set(ample.formats.values()) == {None}
    needed = Room.of(checkpoint, 1, 64).needs(ample).total_bytes
    tight = plan_of(checkpoint, fit_bytes=needed - 1, context=64)
    assert "weights" in tight.why
    assert "would need" in tight.why


def test_the_refusal_names_a_context_and_a_budget_that_work(checkpoint: Checkpoint) -> None:
    smallest = plan_of(checkpoint, bits=2)
    budget = Room.of(checkpoint, 1, 100).needs(smallest).total_bytes
    with pytest.raises(MemoryBudgetError) as refused:
        plan_of(checkpoint, fit_bytes=budget, context=256)
    words = str(refused.value).split()
    context = int(words[words.index("--context") + 1])
    assert 1 <= context < 256
    assert plan_of(checkpoint, fit_bytes=budget, context=context)
    megabytes = float(words[words.index("--fit") + 1].removesuffix("MB"))
    assert plan_of(checkpoint, fit_bytes=round(megabytes * 1e6), context=256)


def test_a_recipe_that_was_named_is_kept_or_refused(checkpoint: Checkpoint) -> None:
    plan = plan_of(checkpoint, recipe="lifted_4", fit_bytes=10**9)
    assert plan.recipe == "lifted_4"
    with pytest.raises(MemoryBudgetError, match="lifted_4"):
        plan_of(checkpoint, recipe="lifted_4", fit_bytes=10**5)


def test_the_measured_recipe_takes_the_bytes_of_uniform_bits_and_no_more(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    measured = {"recipe": "measured", "calibration": IDS, "damages": tmp_path / "kept.json"}
    for bits in (2, 4):
        uniform = planned_bytes(checkpoint.parameters, plan_of(checkpoint, bits=bits))
        mixed = planned_bytes(checkpoint.parameters, plan_of(checkpoint, bits=bits, **measured))
        assert 0.9 * uniform < mixed <= uniform


def test_the_measured_recipe_fits_its_budget(checkpoint: Checkpoint, tmp_path: Path) -> None:
    measured = {"recipe": "measured", "calibration": IDS, "damages": tmp_path / "kept.json"}
    for bits in (3, 5):
        budget = Room.of(checkpoint, 1, 64).needs(plan_of(checkpoint, bits=bits)).total_bytes
        plan = plan_of(checkpoint, fit_bytes=budget, context=64, **measured)
        assert Room.of(checkpoint, budget, 64).needs(plan).fits
        assert len(set(plan.formats.values())) > 1
    with pytest.raises(MemoryBudgetError):
        plan_of(checkpoint, fit_bytes=1000, context=64, **measured)


def test_a_measurement_is_made_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    request = Request(recipe="measured", calibration=IDS, bits=3, damages=kept)
    heard: list[str] = []
    first = decide(checkpoint, request, progress=lambda what, n, of: heard.append(what))
    assert heard
    heard.clear()
    assert decide(checkpoint, request, progress=lambda what, n, of: heard.append(what)) == first
    assert not heard
    assert Damages.from_json(json.loads(kept.read_text())["measured"]).tokens


@pytest.mark.parametrize("content", ["", "{", "{}", '{"key": "another"}', '{"key": 3}'])
def test_a_file_that_holds_something_else_is_not_touched(
    checkpoint: Checkpoint, tmp_path: Path, content: str
) -> None:
    kept = tmp_path / "kept.json"
    kept.write_text(content)
    request = Request(recipe="measured", calibration=IDS, bits=3, damages=kept)
    with pytest.raises(ConversionError, match=r"kept\.json"):
        decide(checkpoint, request)
    assert kept.read_text() == content


def test_a_measurement_that_was_stopped_is_made_again(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    request = Request(recipe="measured", calibration=IDS, bits=3, damages=tmp_path / "kept.json")

    def stop(what: str, n: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decide(checkpoint, request, progress=stop)
    assert decide(checkpoint, request).recipe == "measured"


def test_another_text_is_measured_anew_beside_dest(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source, dest = checkpoint.headers.files[0].parent, tmp_path / "dest"
    kept = tmp_path / ".dest.damages.json"
    request = {"recipe": "measured", "bits": 3}

    def full(progress: Any) -> None:
        raise KeyboardInterrupt

    for ids in (IDS, IDS[::-1]):
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(source, dest, calibration=ids, progress=full, **request)
        assert kept.is_file(), "the next run need not measure"
    heard: list[str] = []
    convert_checkpoint(
        source,
        dest,
        calibration=IDS[::-1],
        measuring=lambda what, n, of: heard.append(what),
        **request,
    )
    assert not heard
    assert [path.name for path in tmp_path.iterdir()] == ["dest"]


@pytest.mark.parametrize(("dtype", "stored"), [("float16", mx.float16), (None, mx.bfloat16)])
def test_what_is_measured_has_the_scales_that_will_be_written(
    checkpoint: Checkpoint, dtype: str | None, stored: mx.Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[mx.Dtype] = []

    def measure(*_: Any, stored: mx.Dtype, **__: Any) -> Damages:
        told.append(stored)
        raise ConversionError("measured enough")

    monkeypatch.setattr(decide_module, "measure", measure)
    with pytest.raises(ConversionError, match="measured enough"):
        plan_of(checkpoint, recipe="measured", calibration=IDS, bits=3, dtype=dtype)
    assert told == [stored]


def test_a_measurement_of_other_scales_is_another_one(checkpoint: Checkpoint) -> None:
    keys = {measurement_key(checkpoint, IDS, None, dtype) for dtype in ("float16", "bfloat16")}
    assert len(keys) == 2
