"""The machine: what it is, and how fast it could be."""

from __future__ import annotations

import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral.bench import bandwidth, machine
from mlx_mistral.memory.chips import find_chip

BATTERY = "Now drawing from 'Battery Power'\n -InternalBattery-0 80%; discharging; 5:02 remaining"
WARM = "CPU Power notify\n\tCPU_Scheduler_Limit \t= 100\n\tCPU_Speed_Limit \t= 70\n"


def test_a_macs_bandwidth_is_its_chips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "this_chip", lambda: find_chip("Apple M2 Max"))
    found = bandwidth.memory_bandwidth()
    assert (found.bytes_per_second, found.source) == (400e9, "nominal, M2 Max")


def test_elsewhere_it_is_measured_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "this_chip", lambda: None)
    found = bandwidth.memory_bandwidth(n_bytes=1 << 16)
    assert found.bytes_per_second > 0
    assert found.source in ("measured: a copy by MLX", "measured: a copy by NumPy")


def test_the_limit_of_arithmetic_is_measured() -> None:
    assert bandwidth.matrix_flops(mx.float32, size=32) > 0


def test_power_and_heat_are_told_on_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {
        ("pmset", "-g", "batt"): BATTERY,
        ("pmset", "-g"): "Currently in use:\n lowpowermode         1\n",
        ("pmset", "-g", "therm"): WARM,
    }
    monkeypatch.setattr(machine, "_IS_MAC", True)
    monkeypatch.setattr(machine, "_said_by", lambda *command: said[command])
    assert machine.power() == "Battery Power, low power mode"
    assert machine.thermal() == "CPU_Scheduler_Limit 100, CPU_Speed_Limit 70"


def test_a_mac_that_tells_nothing_is_none_the_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(machine, "_IS_MAC", True)
    monkeypatch.setattr(subprocess, "run", missing)
    assert (machine.power(), machine.thermal()) == (None, None)
    assert machine.chip()


def test_a_checkout_tells_its_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) is None

    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ("git", "-C", str(tmp_path), *who, *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert machine.commit(tmp_path) is None
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "-q", "-m", "one")
    assert machine.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "file").write_text("two")
    assert machine.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD") + "+"


def test_the_card_names_the_settings_that_change_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "77")
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    card = machine.machine_card()
    assert card["environment"]["MLX_MAX_OPS_PER_BUFFER"] == "77"
    assert "LD_PRELOAD_NOT" not in card["environment"]
    assert card["backend"] in ("CPU", "Metal", "CUDA")
    assert {"mlx", "mlx_mistral", "python", "commit"} <= set(machine.versions())
