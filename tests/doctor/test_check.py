"""A check compares a number with a limit; an exception is a failed check, not the end of a run."""

from __future__ import annotations

import json
import math

import pytest

from mlx_mistral.doctor.check import (
    SKIPPED,
    Measurement,
    Probe,
    run_probe,
    run_probes,
    worst,
)


def passing() -> Measurement:
    return Measurement.error(0.5, 1.0)


def raising() -> Measurement:
    raise RuntimeError("[metal] no kernel\nfor this\x1b[2J shape")


def test_an_exception_is_a_failed_check_on_one_line_and_the_others_run() -> None:
    probes = [Probe(name="broken", measure=raising, advice="update MLX")]
    probes += [Probe(name="right", measure=passing)]
    broken, right = run_probes(probes, seconds=60)
    assert (broken.ok, broken.limit, broken.advice) == (False, None, "update MLX")
    assert isinstance(broken.value, str)
    assert broken.value.startswith("RuntimeError: [metal] no kernel for this")
    assert (right.ok, right.value, right.limit, right.advice) == (True, 0.5, 1.0, "")


def test_an_interrupt_ends_the_run() -> None:
    def interrupted() -> Measurement:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(run_probes([Probe(name="interrupted", measure=interrupted)], seconds=60))


def test_probes_that_would_start_too_late_are_skipped_and_say_so() -> None:
    times = iter([0.0, 1.0, 51.0, 52.0, 53.0])
    ran: list[str] = []
    probes = [Probe(name=str(n), measure=passing) for n in range(4)]
    checks = list(run_probes(probes, seconds=52.0, on_start=ran.append, clock=lambda: next(times)))
    assert ran == ["0", "1"]
    assert [check.value for check in checks] == [0.5, 0.5, SKIPPED, SKIPPED]
    assert all(check.ok for check in checks)
    assert "not run" in checks[3].advice


def test_memory_is_freed_after_each_probe() -> None:
    freed: list[int] = []
    probes = [Probe(name="a", measure=raising), Probe(name="b", measure=passing)]
    list(run_probes(probes, seconds=60, after=lambda: freed.append(1)))
    assert len(freed) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.1])
def test_an_error_above_the_limit_fails_and_nan_too(value: float) -> None:
    assert not Measurement.error(value, 1.0).ok
    check = run_probe(Probe(name="x", measure=lambda: Measurement.error(value, 1.0)))
    assert json.loads(json.dumps(check.to_json(), allow_nan=False))["ok"] is False


def test_each_kind_of_number_has_its_own_comparison() -> None:
    assert Measurement.differences(0).ok
    assert not Measurement.differences(1).ok
    assert Measurement.at_most_bytes(10, 10).ok
    assert not Measurement.at_most_bytes(11, 10).ok
    assert Measurement.share(0.5, 0.5).ok
    assert not Measurement.share(0.49, 0.5).ok
    assert Measurement.share(0.01, None).ok


def test_the_worst_of_several_errors_is_the_nearest_to_its_limit() -> None:
    errors = [Measurement.error(0.9, 10.0), Measurement.error(0.5, 0.6)]
    assert worst(errors) is errors[1]


def test_the_keys_of_a_check_are_those_that_are_promised() -> None:
    check = run_probe(Probe(name="right", measure=passing))
    assert set(check.to_json()) == {"name", "ok", "value", "limit", "advice"}
