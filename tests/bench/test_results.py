"""Medians, ratios, and where two texts part."""

from __future__ import annotations

import pytest

from mlx_mistral.bench.cases import Case
from mlx_mistral.bench.program import Trial
from mlx_mistral.bench.results import Result, compare, first_difference, result_of
from mlx_mistral.bench.traffic import Work

CASE = Case(gen_tokens=10, batch=2)


def trial(decode: float, *, first: float = 0.5, peak: int = 100, token: int = 7) -> Trial:
    tokens = [[token] * 11, [1] * 11]
    return Trial(first_seconds=first, decode_seconds=decode, peak_bytes=peak, tokens=tokens)


def result(*trials: Trial, case: Case = CASE, others: int = 0) -> Result:
    work = Work(bytes_per_token=50, flops_per_token=1)
    return result_of(case, trials, others_bytes=others, work=work, bytes_per_second=4000.0)


def test_speed_is_the_median_and_its_spread() -> None:
    found = result(trial(1.0), trial(4.0), trial(2.0, peak=130), others=30)
    assert found.tps == 10.0
    assert found.trials_tps == (20.0, 5.0, 10.0)
    assert found.tps_stdev == pytest.approx(7.6376, abs=1e-4)
    assert found.peak_memory_bytes == 100
    assert found.bandwidth_fraction == 10.0 * 50 / 4000


def test_reading_a_prompt_is_timed_to_its_first_token() -> None:
    found = result(trial(0.0, first=0.25), case=Case(prompt_tokens=8, batch=2))
    assert (found.tps, found.ttft_ms, found.tps_stdev) == (64.0, 250.0, 0.0)


def test_a_card_has_the_promised_keys() -> None:
    assert result(trial(1.0)).to_json() == {
        "test": "tg10 b2",
        "prompt_tokens": 0,
        "gen_tokens": 10,
        "depth": 0,
        "batch": 2,
        "tps": 20.0,
        "tps_stdev": 0.0,
        "tps_trials": [20.0],
        "ttft_ms": 500.0,
        "peak_memory_bytes": 100,
        "bytes_per_token": 50,
        "flops_per_token": 1,
        "bandwidth_fraction": 0.25,
    }


def test_ratios_are_taken_trial_by_trial() -> None:
    """Both became slower together, which their ratio must not see."""
    ours = result(trial(1.0, peak=50), trial(2.0), trial(4.0))
    theirs = result(trial(2.0), trial(4.0), trial(8.0, peak=200))
    found = compare(ours, theirs)
    assert (found.tps, found.tps_min, found.tps_max, found.tps_stdev) == (2.0, 2.0, 2.0, 0.0)
    assert found.peak_memory == 0.5
    assert found.to_json()["same_output"] is True


def test_a_wrong_text_is_found_and_its_place_said() -> None:
    found = compare(result(trial(1.0)), result(trial(1.0, token=8)))
    assert found.first_difference == 0
    assert found.to_json()["same_output"] is False


@pytest.mark.parametrize(
    ("a", "b", "place"),
    [
        ([[1, 2, 3]], [[1, 2, 3]], None),
        ([[1, 2, 3], [4, 5, 6]], [[1, 2, 9], [4, 0, 6]], 1),
        ([[1, 2, 3]], [[1, 2]], 2),
    ],
)
def test_texts_part_where_the_first_of_them_does(
    a: list[list[int]], b: list[list[int]], place: int | None
) -> None:
    assert first_difference(a, b) == place
