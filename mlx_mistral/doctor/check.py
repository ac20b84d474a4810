"""Checks: a probe measures a number, and the number is compared with a limit. No MLX is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["error", "differences", "bytes", "share", "fact"]
"""The meaning of a value: a relative error, a number of values that differ, bytes, a share of a
whole, or a fact in words."""
SKIPPED = "skipped"
MAX_ERROR_TEXT = 200
REPORT = "update MLX (pip install -U mlx); if it still fails, report `mlx-mistral doctor --json`"
"""Advice for a wrong result of MLX or of this program."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The result of a probe: a value, the limit that it is compared with, and the verdict."""

    value: float | int | str | None
    ok: bool = True
    limit: float | int | None = None
    unit: Unit = "fact"

    @classmethod
    def error(cls, value: float, limit: float) -> Measurement:
        """Return a relative error, which may be at most the limit; NaN fails."""
        return cls(value=value, ok=value <= limit, limit=limit, unit="error")

    @classmethod
    def differences(cls, count: int) -> Measurement:
        """Return the number of values that differ where all must be equal."""
        return cls(value=count, ok=count == 0, limit=0, unit="differences")

    @classmethod
    def at_most_bytes(cls, value: int, limit: int) -> Measurement:
        """Return an amount of memory, which may be at most the limit."""
        return cls(value=value, ok=value <= limit, limit=limit, unit="bytes")

    @classmethod
    def share(cls, value: float, minimum: float | None) -> Measurement:
        """Return a share, which must reach the minimum if there is one."""
        ok = minimum is None or value >= minimum
        return cls(value=value, ok=ok, limit=minimum, unit="share")


def worst(measured: Sequence[Measurement]) -> Measurement:
    """Return the error that is nearest to its limit or furthest above it."""

    def rank(error: Measurement) -> tuple[bool, float]:
        return not error.ok, float(error.value or 0) / float(error.limit or 1)

    return max(measured, key=rank)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A check that has not run yet.

    Example:
        Probe(name="rms norm", measure=lambda: Measurement.error(1e-7, 1e-5), advice=REPORT)
    """

    name: str
    measure: Callable[[], Measurement]
    advice: str = REPORT
    """The next step of the user if the check fails."""
    is_quick: bool = False
    """The quick run includes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A finished check. A skipped check is ok: it is no evidence of a failure."""

    name: str
    ok: bool
    value: float | int | str | None
    limit: float | int | None
    advice: str
    """The next step if the check failed, the reason if it was skipped, else empty."""
    unit: Unit = "fact"

    def to_json(self) -> dict[str, Any]:
        """Return the keys that `doctor --json` promises. A value that is not finite is a string:
        JSON has no number for it."""
        is_number = isinstance(self.value, float)
        value = str(self.value) if is_number and not _is_finite(self.value) else self.value
        return {
            "name": self.name,
            "ok": self.ok,
            "value": value,
            "limit": self.limit,
            "advice": self.advice,
        }


def run_probes(
    probes: Sequence[Probe],
    *,
    seconds: float,
    on_start: Callable[[str], None] = lambda name: None,
    after: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Check]:
    """Run probes one after another. A probe that raises an exception is a failed check.

    Args:
        seconds: no probe starts after so much time.
        on_start: called with a probe's name before it runs.
        after: called after each probe, to free its memory.
    """
    end = clock() + seconds
    for probe in probes:
        if clock() >= end:
            yield _skipped(probe, seconds)
            continue
        on_start(probe.name)
        yield run_probe(probe)
        after()


def run_probe(probe: Probe) -> Check:
    """Run one probe."""
    try:
        measured = probe.measure()
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        measured = Measurement(value=text[:MAX_ERROR_TEXT], ok=False)
    return Check(
        name=probe.name,
        ok=measured.ok,
        value=measured.value,
        limit=measured.limit,
        advice="" if measured.ok else probe.advice,
        unit=measured.unit,
    )


def _skipped(probe: Probe, seconds: float) -> Check:
    advice = f"not run: {seconds:.0f} s were over before it; close other programs, run again"
    return Check(name=probe.name, ok=True, value=SKIPPED, limit=None, advice=advice)


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and abs(value) < float("inf")
