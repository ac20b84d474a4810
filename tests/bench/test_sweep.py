"""Settings of the environment, each tried in turn."""

from __future__ import annotations

import json
import subprocess
from types import SimpleNamespace
from typing import Any

import pytest

from mlx_mistral.bench.sweep import CHOICES, Tried, best, describe, sweep
from mlx_mistral.errors import MlxMistralError

OPS = {"MLX_MAX_OPS_PER_BUFFER": "100"}


def tried(settings: dict[str, str], *tps: float, test: str = "tg8") -> Tried:
    return Tried(test=test, settings=settings, rounds_tps=tps)


def test_the_best_is_ahead_by_more_than_the_spread() -> None:
    clear = [tried({}, 10.0, 10.2, 9.8), tried(OPS, 12.0, 12.2, 11.8)]
    assert best(clear) == [clear[1]]
    noisy = [tried({}, 10.0, 14.0, 6.0), tried(OPS, 12.0, 12.2, 11.8)]
    assert best(noisy) == [noisy[0]]


def test_each_test_has_its_own_best() -> None:
    every = [
        tried({}, 10.0, test="pp8"), tried(OPS, 9.0, test="pp8"),
        tried({}, 5.0), tried(OPS, 6.0),
    ]  # fmt: skip
    assert best(every) == [every[0], every[3]]


def test_every_choice_runs_in_turn_in_a_process_with_its_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, str]] = []

    def run(command: list[str], *, env: dict[str, str], **_: Any) -> SimpleNamespace:
        assert command[1:6] == ["-m", "mlx_mistral", "bench", "demo", "--json"]
        seen.append({name: env[name] for name in CHOICES if name in env})
        tps = 20.0 if env.get("MLX_MAX_OPS_PER_BUFFER") == "200" else 10.0
        out = json.dumps({"results": [{"test": "tg8", "tps": tps}]})
        return SimpleNamespace(stdout=out, stderr="", returncode=0)

    monkeypatch.setenv("MLX_MAX_MB_PER_BUFFER", "7")
    monkeypatch.setattr(subprocess, "run", run)
    found = sweep(["demo"], rounds=2)
    n = len(seen) // 2
    assert seen[:n] == seen[n:]
    assert seen[0] == {}
    assert [one.settings for one in found] == seen[:n]
    assert all(len(one.rounds_tps) == 2 for one in found)
    [chosen] = best(found)
    assert describe(chosen.settings).startswith("MLX_MAX_OPS_PER_BUFFER=200")


def test_a_run_that_fails_is_said_with_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = SimpleNamespace(stdout="", stderr="error: no such model\n", returncode=1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(MlxMistralError, match="no such model, under MLX_MAX_OPS_PER_BUFFER=100"):
        sweep([], rounds=1, choices=[OPS])
