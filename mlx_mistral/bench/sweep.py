"""Settings that MLX reads before its first operation, tried each in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlx_mistral.errors import MlxMistralError

from .results import Rounds

Settings = dict[str, str]

CHOICES: dict[str, tuple[str, ...]] = {
    "MLX_MAX_OPS_PER_BUFFER": ("20", "100", "200"),
    "MLX_MAX_MB_PER_BUFFER": ("20", "100", "200"),
}
"""Beside MLX's own choice, which depends on the chip: how much goes to a GPU at a time."""
ROUNDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried(Rounds):
    """One test under one choice of settings; none are MLX's own."""

    test: str
    settings: Settings

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "settings": self.settings,
            **self.speed(),
        }


def sweep(
    arguments: Sequence[str],
    *,
    rounds: int = ROUNDS,
    choices: Sequence[Settings] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Tried]:
    """Runs `mlx-mistral bench` with these arguments under every choice, in turn, some rounds.

    Raises: MlxMistralError: a run failed.
    """
    every = list(_choices()) if choices is None else list(choices)
    found: dict[tuple[str, int], list[float]] = {}
    for n in range(rounds):
        for number, settings in enumerate(every):
            if progress:
                progress(f"round {n + 1} of {rounds}: {describe(settings)}")
            for result in _run(arguments, settings):
                found.setdefault((result["test"], number), []).append(result["tps"])
    return [
        Tried(test=test, settings=every[number], rounds_tps=tuple(tps))
        for (test, number), tps in found.items()
    ]


def best(tried: Sequence[Tried]) -> list[Tried]:
    """For each test the fastest choice; MLX's own where none is ahead by more than the spread."""
    chosen = []
    for test in dict.fromkeys(one.test for one in tried):
        of_test = [one for one in tried if one.test == test]
        own = next(one for one in of_test if not one.settings)
        fastest = max(of_test, key=lambda one: one.tps)
        noise = max(own.tps_stdev, fastest.tps_stdev)
        chosen.append(fastest if fastest.tps - own.tps > noise else own)
    return chosen


def describe(settings: Settings) -> str:
    """As a shell takes them."""
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "MLX's own settings"


def _choices() -> Iterator[Settings]:
    yield {}
    for name, values in CHOICES.items():
        for value in values:
            yield {name: value}
    yield {name: values[-1] for name, values in CHOICES.items()}


def _run(arguments: Sequence[str], settings: Settings) -> list[dict[str, Any]]:
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-m", "mlx_mistral", "bench", *arguments, "--json", "--quiet"],
        env=environment | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    try:
        results: list[dict[str, Any]] = json.loads(done.stdout)["results"]
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().removeprefix("error: ")
        raise MlxMistralError(f"{said or 'no result'}, under {describe(settings)}") from None
    return results
