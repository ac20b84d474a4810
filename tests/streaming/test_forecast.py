"""What is foretold of a streamed model's speed."""

from __future__ import annotations

import fcntl
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mistral.config import QuantConfig, QuantParams
from mlx_mistral.errors import CheckpointError, MlxMistralError, ModelNotFoundError
from mlx_mistral.streaming import (
    expected_hit_rate,
    expected_tps,
    measured,
    measured_disk_speed,
    measured_weight_speed,
)
from tests.tiny import MOE, tiny_config


def test_experts_alike_are_there_as_often_as_there_is_room() -> None:
    assert expected_hit_rate(64, 256) == 0.25
    assert expected_hit_rate(0, 8) == 0.0
    assert expected_hit_rate(300, 256) == 1.0


def test_holding_the_experts_that_are_chosen_most_serves_their_share() -> None:
    uses = [1, 5, 2, 2]
    assert expected_hit_rate(2, 4, shares=uses) == 0.7
    draws = np.random.default_rng(0).choice(4, 20000, p=np.array(uses) / 10)
    assert np.isin(draws, [1, 2]).mean() == pytest.approx(0.7, abs=0.02)


def test_a_token_takes_its_computing_and_what_of_its_reading_is_not_hidden() -> None:
    """64 experts a token, a quarter missing, 100 MB each at 1 GB/s: 1.6 s beside 0.1 s."""
    options = {
        "resident_tps": 10.0,
        "hit_rate": 0.75,
        "chosen_per_token": 64,
        "expert_bytes": 100_000_000,
        "disk_bytes_per_second": 1e9,
    }
    assert 1 / expected_tps(**options) == pytest.approx(1.7)  # type: ignore[arg-type]
    assert 1 / expected_tps(**options, hidden=0.5) == pytest.approx(0.9)  # type: ignore[arg-type]
    assert expected_tps(**{**options, "hit_rate": 1.0}) == 10.0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [{"hit_rate": 1.1}, {"hit_rate": float("nan")}, {"disk_bytes_per_second": 0.0},
     {"resident_tps": -1.0}, {"hidden": 2.0}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(change: dict[str, Any]) -> None:
    options: dict[str, Any] = {
        "resident_tps": 10.0, "hit_rate": 0.5, "chosen_per_token": 4, "expert_bytes": 10,
        "disk_bytes_per_second": 1e9,
    }  # fmt: skip
    with pytest.raises(MlxMistralError):
        expected_tps(**{**options, **change})


@pytest.mark.parametrize(
    ("slots", "experts", "shares"), [(-1, 8, None), (1, 0, None), (1, 2, [1]), (1, 2, [0, 0])]
)
def test_counts_that_mean_nothing_are_refused(
    slots: int, experts: int, shares: list[float] | None
) -> None:
    with pytest.raises(MlxMistralError):
        expected_hit_rate(slots, experts, shares=shares)


def test_a_disk_has_a_speed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(20 << 20))
    assert 1e6 < measured_disk_speed(path) < 1e12


def test_macos_does_not_cache_what_is_measured_and_has_no_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F_NOCACHE in place of posix_fadvise, which macOS and its Python do not have."""
    path = tmp_path / "file"
    path.write_bytes(bytes(20 << 20))
    commands: list[tuple[int, int]] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, *command: commands.append(command))
    assert measured_disk_speed(path) > 1e6
    assert commands == [(48, 1)]


def test_a_disk_is_not_measured_by_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is empty"):
        measured_disk_speed(tmp_path / "empty")
    with pytest.raises(ModelNotFoundError):
        measured_disk_speed(tmp_path / "missing")


@pytest.mark.parametrize(
    ("bits", "limit", "n_bytes"),
    [
        (None, 1 << 30, 8 * 192 * 64 * 4),
        (4, 1 << 30, 8 * 192 * 64 * 4.5 / 8 + 8 * 192 * 4),
        (None, 200_000, 4 * 192 * 64 * 4),
        (None, 40_000, 64 * 64 * 4),
    ],
)
def test_experts_are_multiplied_as_they_are_stored_no_more_than_need_be(
    bits: int | None, limit: int, n_bytes: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a clock that ticks once a second whenever it is looked at."""
    params = QuantConfig(default=QuantParams(group_size=64, bits=bits)) if bits else None
    config = replace(tiny_config(**MOE, dim=64, hidden_dim=192), quantization=params)
    ticks = iter(range(100))
    monkeypatch.setattr(measured.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(measured, "_PROBE_BYTES", limit)
    assert measured_weight_speed(config, "float32") == n_bytes
