"""Named recipes: more bits where they are promised, and never fewer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_mistral.config import QuantParams
from mlx_mistral.convert.plan import Matrix, Plan
from mlx_mistral.convert.recipes import named

BITS = (2, 3, 4, 5, 6, 8)
KINDS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def matrices(n_layers: int) -> list[Matrix]:
    paths = ["model.embed_tokens", "lm_head"]
    for n in range(n_layers):
        paths += [f"model.layers.{n}.self_attn.{kind}" for kind in KINDS[:4]]
        paths += [f"model.layers.{n}.mlp.{kind}" for kind in KINDS[4:]]
    return [Matrix(path=path, shape=(64, 128)) for path in paths]


def bits_of(plan: Plan) -> dict[str, int]:
    return {path: params.bits for path, params in plan.formats.items() if params}


@given(st.sampled_from([2, 3, 4, 5]), st.integers(1, 90), st.sampled_from([32, 64, 128]))
def test_lifted_gives_steps_for_ends_for_v_and_down_and_two_outside_of_layers(
    low: int, n_layers: int, group_size: int
) -> None:
    params = QuantParams(bits=4, group_size=group_size)
    plan = named(f"lifted_{low}", matrices(n_layers), params, n_layers, "bfloat16")
    ends = max(1, n_layers // 8)
    for path, bits in bits_of(plan).items():
        steps = BITS.index(bits) - BITS.index(low)
        if ".layers." not in path:
            assert steps == 2
            continue
        layer, kind = int(path.split(".")[2]), path.split(".")[-1]
        at_an_end = min(layer, n_layers - 1 - layer) < ends
        assert steps == at_an_end + (kind in ("v_proj", "down_proj"))
    assert {one.group_size for one in plan.formats.values() if one} == {group_size}


def test_the_default_of_the_block_is_the_commonest_format() -> None:
    plan = named("mixed_3_6", matrices(32), QuantParams(bits=4, group_size=64), 32, "bfloat16")
    block = plan.quantization()
    assert block is not None
    assert block.default.bits == 3
    assert all(params is not None and params.bits == 6 for params in block.overrides.values())
    for path, params in plan.formats.items():
        assert block.for_path(path) == params


def test_what_is_said_of_a_plan_follows_from_its_formats() -> None:
    plan = named("mixed_3_6", matrices(8), QuantParams(bits=4, group_size=64), 8, "float16")
    told = plan.to_json()
    assert told["bits_by_kind"]["v_proj"] == [3, 6]
    assert told["bits_by_kind"]["q_proj"] == [3]
    assert told["bits_by_kind"]["lm_head"] == [6]
    assert told["dtype"] == "float16"


@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_rows_that_the_groups_do_not_divide_stay_as_they_are(group_size: int) -> None:
    sizes = {32: 96, 64: 192, 128: 384}
    odd = [Matrix(path=f"m.{n}.q_proj", shape=(8, n)) for n in (48, *sizes.values())]
    plan = named("uniform", odd, QuantParams(bits=4, group_size=group_size), 1, "bfloat16")
    for matrix in odd:
        assert (plan.formats[matrix.path] is None) == bool(matrix.shape[-1] % group_size)
    assert plan.bits_by_kind()["q_proj"] == [4, 16]
