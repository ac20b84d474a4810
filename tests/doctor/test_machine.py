"""Sources of the machine's facts: understood, silent, or of an unknown format."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mistral.doctor import machine
from mlx_mistral.doctor.check import run_probe
from mlx_mistral.doctor.machine import LINUX_SOURCES, MAC_SOURCES, machine_probes, reported
from mlx_mistral.memory import mac

CARD: dict[str, Any] = {
    "chip": "Apple M3 Max", "memory_bytes": 64 << 30, "free_bytes": 20 << 30,
    "wired_limit_bytes": 0, "gpu_cores": 40, "os_version": "macOS 15.6.1",
    "power": "AC Power", "thermal": "no warning",
}  # fmt: skip


@pytest.fixture
def on_mac(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A Mac whose kernel variables the test chooses."""
    variables: dict[str, str] = {}
    monkeypatch.setattr(mac, "is_mac", lambda: True)
    monkeypatch.setattr(mac, "sysctl", lambda *names: variables)
    return variables


def test_every_source_of_a_mac_is_a_check(on_mac: dict[str, str]) -> None:
    checks = [run_probe(probe) for probe in machine_probes(CARD)]
    assert [check.name for check in checks] == [f"machine, {name}" for name in MAC_SOURCES]
    assert all(check.ok for check in checks)
    assert CARD["wired_limit_bytes"] == next(c.value for c in checks if "wired" in c.name)


def test_a_source_that_prints_something_else_fails_and_names_its_program(
    on_mac: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "command_output", lambda *command: "x" * 1000)
    probes = machine_probes({**CARD, "free_bytes": None})
    check = next(run_probe(probe) for probe in probes if probe.name == "machine, free memory")
    assert (check.ok, check.value) == (False, "not understood")
    assert "/usr/bin/vm_stat" in check.advice


def test_a_virtual_mac_has_no_battery_and_no_gpu_cores(
    on_mac: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    on_mac[machine.VIRTUAL_MACHINE] = "1"
    monkeypatch.setattr(machine, "command_output", lambda *command: "{}")
    virtual = CARD | {"gpu_cores": None, "power": None, "thermal": None, "wired_limit_bytes": None}
    assert all(run_probe(probe).ok for probe in machine_probes(virtual))
    no_memory = [run_probe(probe) for probe in machine_probes({**virtual, "free_bytes": None})]
    assert [check.name for check in no_memory if not check.ok] == ["machine, free memory"]


def test_a_program_that_is_missing_is_no_failure() -> None:
    measured = reported(None, ("no such program",), may_be_absent=False)
    assert (measured.ok, measured.value) == (True, machine.NOT_REPORTED)


@pytest.mark.parametrize("value", [None, "", "arm", "macOS", True, [1], {"a": 1}, 1.5])
def test_values_of_another_kind_are_not_understood(value: object) -> None:
    assert not reported(value, ("echo", "?"), may_be_absent=False).ok


def test_linux_has_the_sources_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mac, "is_mac", lambda: False)
    names = [probe.name for probe in machine_probes({})]
    assert names == [f"machine, {name}" for name in LINUX_SOURCES]
