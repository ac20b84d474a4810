"""The choice of formats, against trying every one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.config import QuantParams
from mlx_mistral.convert.measured import Damages, choose
from mlx_mistral.convert.measured.choose import Option, hull, pick, undominated
from mlx_mistral.convert.measured.formats import CANDIDATES, stored_bytes
from mlx_mistral.errors import ConversionError

SHAPE = (4, 128)


def damages_of(by_path: dict[str, dict[QuantParams | None, float]]) -> Damages:
    return Damages(by_path=by_path, probes=(), tokens=1, branch_tokens=1)


def affine(bits: int, group_size: int = 64) -> QuantParams:
    return QuantParams(bits=bits, group_size=group_size)


option_lists = st.lists(
    st.lists(
        st.builds(Option, st.integers(1, 15), st.integers(0, 20).map(float), st.none()),
        min_size=2,
        max_size=5,
    ),
    min_size=1,
    max_size=4,
)
"""Small numbers, so that budgets are often met exactly."""


def total(options: list[list[Option]], picks: tuple[int, ...] | list[int]) -> tuple[int, float]:
    chosen = [of_one[place] for of_one, place in zip(options, picks, strict=True)]
    return sum(one.nbytes for one in chosen), sum(one.damage for one in chosen)


def all_picks(options: list[list[Option]]) -> list[tuple[int, ...]]:
    return list(product(*(range(len(of_one)) for of_one in options)))


@settings(max_examples=300)
@given(option_lists, st.integers(0, 30))
def test_a_choice_keeps_its_budget_and_no_change_of_one_or_two_matrices_betters_it(
    raw: list[list[Option]], spare: int
) -> None:
    options = [undominated(of_one) for of_one in raw]
    budget = sum(of_one[0].nbytes for of_one in options) + spare
    picks = pick(options, budget)
    nbytes, damage = total(options, picks)
    assert nbytes <= budget
    for other in all_picks(options):
        if sum(a != b for a, b in zip(picks, other, strict=True)) <= 2:
            other_bytes, other_damage = total(options, other)
            assert other_bytes > budget or other_damage >= damage - 1e-9


@settings(max_examples=300)
@given(option_lists, st.integers(0, 30))
def test_a_choice_is_at_most_one_step_from_the_best(raw: list[list[Option]], spare: int) -> None:
    options = [undominated(of_one) for of_one in raw]
    budget = sum(of_one[0].nbytes for of_one in options) + spare
    _, damage = total(options, pick(options, budget))
    within = [total(options, p) for p in all_picks(options)]
    best = min(damage for nbytes, damage in within if nbytes <= budget)
    largest_step = max(
        of_one[a].damage - of_one[b].damage
        for of_one in options
        for corners in [hull(of_one)]
        for a, b in zip(corners, [*corners[1:], corners[-1]], strict=True)
    )
    assert best - 1e-9 <= damage <= best + largest_step + 1e-9


@given(option_lists)
def test_no_option_lies_below_the_hull_and_its_steps_gain_less_and_less(
    raw: list[list[Option]],
) -> None:
    for of_one in raw:
        kept = undominated(of_one)
        corners = [kept[place] for place in hull(kept)]
        assert (corners[0], corners[-1]) == (kept[0], kept[-1])
        slopes = [(a.damage - b.damage) / (b.nbytes - a.nbytes) for a, b in pairwise(corners)]
        assert all(before > after for before, after in pairwise(slopes))
        for (a, b), slope in zip(pairwise(corners), slopes, strict=True):
            for one in kept:
                if a.nbytes <= one.nbytes <= b.nbytes:
                    assert one.damage >= a.damage - slope * (one.nbytes - a.nbytes) - 1e-9


@given(option_lists)
def test_with_room_for_all_every_matrix_gets_its_least_damage(raw: list[list[Option]]) -> None:
    options = [undominated(of_one) for of_one in raw]
    picks = pick(options, 10_000)
    assert [of_one[p].damage for of_one, p in zip(options, picks, strict=True)] == [
        min(one.damage for one in of_one) for of_one in raw
    ]


@given(option_lists)
def test_more_bytes_never_do_more_damage_and_ties_take_fewer(raw: list[list[Option]]) -> None:
    for of_one in raw:
        kept = undominated(of_one)
        assert all(a.nbytes < b.nbytes and a.damage > b.damage for a, b in pairwise(kept))
        assert all(any(k.nbytes <= o.nbytes and k.damage <= o.damage for k in kept) for o in of_one)


def test_bits_go_where_they_matter() -> None:
    formats = {affine(2): 1.0, affine(4): 0.1, affine(8): 0.0}
    damages = damages_of({"quiet": formats, "loud": {k: 100 * v for k, v in formats.items()}})
    budget = stored_bytes(SHAPE, affine(8)) + stored_bytes(SHAPE, affine(2))
    chosen = choose(damages, {"quiet": SHAPE, "loud": SHAPE}, budget + 7, fixed_bytes=7)
    assert chosen == {"quiet": affine(2), "loud": affine(8)}


def test_a_matrix_may_stay_in_16_bits_and_odd_rows_get_no_groups_that_do_not_divide_them() -> None:
    damages = damages_of({"a": {affine(4, 128): 0.5, affine(4, 32): 0.3, None: 0.0}})
    shapes = {"a": (4, 96)}
    small = stored_bytes((4, 96), affine(4, 32))
    assert choose(damages, shapes, small, fixed_bytes=0) == {"a": affine(4, 32)}
    assert choose(damages, shapes, 2 * 4 * 96, fixed_bytes=0) == {"a": None}


def test_a_budget_below_the_smallest_choice_is_refused_with_that_size() -> None:
    damages = damages_of({"a": {affine(2, 128): 1.0, affine(4): 0.1}})
    smallest = stored_bytes(SHAPE, affine(2, 128)) + 10
    assert choose(damages, {"a": SHAPE}, smallest, fixed_bytes=10) == {"a": affine(2, 128)}
    with pytest.raises(ConversionError, match=f"takes {smallest} bytes"):
        choose(damages, {"a": SHAPE}, smallest - 1, fixed_bytes=10)


def test_a_matrix_that_was_not_measured_is_named() -> None:
    with pytest.raises(ConversionError, match="b was not measured"):
        choose(damages_of({"a": {None: 0.0}}), {"b": SHAPE}, 10**6, fixed_bytes=0)


@pytest.mark.parametrize("shape", [(6, 256), (3, 5, 128)])
@pytest.mark.parametrize("one", CANDIDATES)
def test_bytes_are_those_of_the_arrays_that_a_file_holds(
    one: QuantParams | None, shape: tuple[int, ...]
) -> None:
    import mlx.core as mx

    weight = mx.zeros(shape, mx.bfloat16)
    parts = [weight]
    if one is not None:
        parts = mx.quantize(weight, group_size=one.group_size, bits=one.bits)
    assert stored_bytes(shape, one) == sum(part.nbytes for part in parts)
