"""Runs become figures: the middle of the trials, their spread, and what follows from both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, stdev
from typing import Any

from .cases import Case
from .program import Trial
from .traffic import Work


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One test of one program."""

    case: Case
    tps: float
    """Tokens a second of all texts together, the median of the trials."""
    tps_stdev: float
    trials_tps: tuple[float, ...]
    ttft_ms: float
    """Until the first token: of the prompt that is read, or of the one that starts a reply."""
    peak_memory_bytes: int
    work: Work | None
    bandwidth_fraction: float | None
    tokens: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        """The figures by their promised names."""
        case, work = self.case, self.work
        return {
            "test": case.name,
            "prompt_tokens": case.prompt_tokens,
            "gen_tokens": case.gen_tokens,
            "depth": case.depth,
            "batch": case.batch,
            "tps": self.tps,
            "tps_stdev": self.tps_stdev,
            "tps_trials": list(self.trials_tps),
            "ttft_ms": self.ttft_ms,
            "peak_memory_bytes": self.peak_memory_bytes,
            "bytes_per_token": work.bytes_per_token if work else None,
            "flops_per_token": work.flops_per_token if work else None,
            "bandwidth_fraction": self.bandwidth_fraction,
        }


def result_of(
    case: Case,
    trials: Sequence[Trial],
    *,
    others_bytes: int,
    work: Work | None,
    bytes_per_second: float | None,
) -> Result:
    """others_bytes: held by other programs in the same process meanwhile."""
    tps = tuple(case.tokens / seconds_of(case, trial) for trial in trials)
    middle = median(tps)
    bound = work and bytes_per_second and middle * work.bytes_per_token / bytes_per_second
    return Result(
        case=case,
        tps=middle,
        tps_stdev=spread(tps),
        trials_tps=tps,
        ttft_ms=1000 * median(trial.first_seconds for trial in trials),
        peak_memory_bytes=max(trial.peak_bytes for trial in trials) - others_bytes,
        work=work,
        bandwidth_fraction=bound or None,
        tokens=trials[-1].tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One test, ours over theirs, trial by trial as they ran in turn."""

    test: str
    tps: float
    tps_min: float
    tps_max: float
    tps_stdev: float
    ttft: float
    peak_memory: float
    first_difference: int | None
    """The first token at which any text differs, from 0; None: the outputs are equal."""

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "tps": self.tps,
            "tps_min": self.tps_min,
            "tps_max": self.tps_max,
            "tps_stdev": self.tps_stdev,
            "ttft": self.ttft,
            "peak_memory": self.peak_memory,
            "same_output": self.first_difference is None,
            "first_difference": self.first_difference,
        }


def compare(ours: Result, theirs: Result) -> Comparison:
    """Ratios of two results of one test; above 1 ours is more."""
    pairs = zip(ours.trials_tps, theirs.trials_tps, strict=True)
    ratios = [mine / other for mine, other in pairs]
    return Comparison(
        test=ours.case.name,
        tps=median(ratios),
        tps_min=min(ratios),
        tps_max=max(ratios),
        tps_stdev=spread(ratios),
        ttft=ours.ttft_ms / theirs.ttft_ms,
        peak_memory=ours.peak_memory_bytes / max(1, theirs.peak_memory_bytes),
        first_difference=first_difference(ours.tokens, theirs.tokens),
    )


def first_difference(a: Sequence[Sequence[int]], b: Sequence[Sequence[int]]) -> int | None:
    """The earliest place at which texts of two programs differ; None: they are the same."""
    places = []
    for one, other in zip(a, b, strict=True):
        differing = (n for n, (x, y) in enumerate(zip(one, other, strict=False)) if x != y)
        place = next(differing, None)
        if place is None and len(one) != len(other):
            place = min(len(one), len(other))
        if place is not None:
            places.append(place)
    return min(places, default=None)


def seconds_of(case: Case, trial: Trial) -> float:
    seconds = trial.first_seconds if case.prompt_tokens else trial.decode_seconds
    return max(seconds, 1e-9)


def spread(values: Sequence[float]) -> float:
    """The standard deviation; 0 where one value has none."""
    return stdev(values) if len(values) > 1 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """Tokens a second of one thing that was tried several times, in turn with others."""

    rounds_tps: tuple[float, ...]

    @property
    def tps(self) -> float:
        return median(self.rounds_tps)

    @property
    def tps_stdev(self) -> float:
        return spread(self.rounds_tps)

    def speed(self) -> dict[str, float]:
        """Its keys in JSON."""
        return {"tps": self.tps, "tps_stdev": self.tps_stdev}
