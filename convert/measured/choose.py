"""Which format each matrix gets, so that the damages add up to the least within some bytes.

A knapsack with one choice a matrix. Formats on the lower convex hull of damage over bytes are
taken in the order of what a byte gains, which is optimal up to the last step; single and paired
changes then use up the bytes that are left.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from mlx_mistral.errors import ConversionError

from .damages import Damages
from .formats import Format, stored_bytes

LARGEST_SEARCH = 200
"""Changes after the greedy choice, which leaves little to gain."""
SMALLEST_GAIN = 1e-12
"""Nats; below, a change is rounding."""


class Option(NamedTuple):
    """A format of one matrix."""

    nbytes: int
    damage: float
    format: Format


def choose(
    damages: Damages,
    shapes: Mapping[str, tuple[int, ...]],
    budget_bytes: int,
    *,
    fixed_bytes: int,
) -> dict[str, Format]:
    """A format for each matrix; never more than the budget together with `fixed_bytes`.

    `shapes` has every matrix that may be quantized, by its module's path.
    Raises: ConversionError: even the smallest choice is too large, or a matrix was not measured.
    """
    options = {
        path: undominated(
            Option(stored_bytes(shape, one), damage, one)
            for one, damage in damages.of(path).items()
            if one is None or shape[-1] % one.group_size == 0
        )
        for path, shape in shapes.items()
    }
    smallest = fixed_bytes + sum(of_one[0].nbytes for of_one in options.values())
    if smallest > budget_bytes:
        raise ConversionError(
            f"the model takes {smallest:,} bytes at the fewest bits, the budget is "
            f"{budget_bytes:,}; allow more, or choose a smaller model"
        )
    picks = pick(list(options.values()), budget_bytes - fixed_bytes)
    return {
        path: of_one[place].format
        for (path, of_one), place in zip(options.items(), picks, strict=True)
    }


def undominated(options: Iterable[Option]) -> list[Option]:
    """From small to large, without those that a smaller or equal one is no worse than.

    Thereby more bytes never do more damage, even where measuring was noisy.
    """
    kept: list[Option] = []
    for option in sorted(options, key=lambda one: (one.nbytes, one.damage)):
        if not kept or option.damage < kept[-1].damage:
            kept.append(option)
    return kept


def pick(options: Sequence[Sequence[Option]], budget: int) -> list[int]:
    """The place of one option of each list. All lists ascend in bytes and descend in damage."""
    picks = [0] * len(options)
    left = budget - sum(of_one[0].nbytes for of_one in options)
    hulls = [hull(of_one) for of_one in options]
    steps = [_step(options, hulls, which, 0) for which in range(len(options))]
    heap = [step for step in steps if step is not None]
    heapq.heapify(heap)
    while heap:
        _, which, at = heapq.heappop(heap)
        place = hulls[which][at]
        cost = options[which][place].nbytes - options[which][picks[which]].nbytes
        if cost > left:
            continue  # what follows on this hull is larger still
        picks[which], left = place, left - cost
        if step := _step(options, hulls, which, at):
            heapq.heappush(heap, step)
    _improve(options, picks, left)
    return picks


def hull(options: Sequence[Option]) -> list[int]:
    """Places of the options from which each further byte gains less than the one before."""
    corners: list[int] = []
    for place, option in enumerate(options):
        while len(corners) > 1 and _gain(options[corners[-2]], options[corners[-1]]) <= _gain(
            options[corners[-2]], option
        ):
            corners.pop()
        corners.append(place)
    return corners


def _gain(small: Option, large: Option) -> float:
    """Damage avoided for each byte more."""
    return (small.damage - large.damage) / (large.nbytes - small.nbytes)


def _step(
    options: Sequence[Sequence[Option]], hulls: Sequence[Sequence[int]], which: int, at: int
) -> tuple[float, int, int] | None:
    """The next step on a hull for the heap, best first; None at its end."""
    corners = hulls[which]
    if at + 1 == len(corners):
        return None
    gain = _gain(options[which][corners[at]], options[which][corners[at + 1]])
    return -gain, which, at + 1


class _Change(NamedTuple):
    """Another option for one matrix: bytes more, damage less; either may be negative."""

    nbytes: int
    gain: float
    which: int
    place: int


def _improve(options: Sequence[Sequence[Option]], picks: list[int], left: int) -> None:
    """Changes one matrix, or one that gives bytes and one that takes them, while that helps."""
    for _ in range(LARGEST_SEARCH):
        best = _best_change(_changes(options, picks), left)
        if not best:
            return
        for change in best:
            picks[change.which] = change.place
            left -= change.nbytes


def _changes(options: Sequence[Sequence[Option]], picks: Sequence[int]) -> list[_Change]:
    return [
        _Change(option.nbytes - now.nbytes, now.damage - option.damage, which, place)
        for which, of_one in enumerate(options)
        for now in [of_one[picks[which]]]
        for place, option in enumerate(of_one)
        if place != picks[which]
    ]


def _best_change(changes: Sequence[_Change], left: int) -> list[_Change]:
    """The largest gain within the bytes left; empty where nothing gains."""
    upward = sorted(change for change in changes if change.nbytes > 0)
    sizes = [change.nbytes for change in upward]
    leaders = _leaders(upward)
    best, best_gain = list[_Change](), SMALLEST_GAIN
    downward = [change for change in changes if change.nbytes < 0]
    for giver in [None, *downward]:
        reach = bisect_right(sizes, left - (giver.nbytes if giver else 0))
        for taker in leaders[reach]:
            if giver and taker.which == giver.which:
                continue
            gain = taker.gain + (giver.gain if giver else 0.0)
            if gain > best_gain:
                best, best_gain = [giver, taker] if giver else [taker], gain
            break
    return best


def _leaders(upward: Sequence[_Change]) -> list[tuple[_Change, ...]]:
    """For each number of the smallest changes, the best of two different matrices among them."""
    leaders: list[tuple[_Change, ...]] = [()]
    for change in upward:
        by_matrix = {one.which: one for one in leaders[-1]}
        known = by_matrix.get(change.which)
        if known is None or change.gain > known.gain:
            by_matrix[change.which] = change
        ranked = sorted(by_matrix.values(), key=lambda one: -one.gain)
        leaders.append(tuple(ranked[:2]))
    return leaders
