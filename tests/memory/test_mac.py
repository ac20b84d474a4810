"""Facts of a Mac, from outputs that people published: see macos/README.md."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import pytest

from mlx_mistral.memory import mac, machine

GIB = 1 << 30
OUTPUTS = Path(__file__).with_name("macos")
MACOS_26 = (OUTPUTS / "vm_stat_macos26_arm.txt").read_text()


def test_every_output_has_its_origin_in_the_readme() -> None:
    for folder in (OUTPUTS, Path(__file__).parents[1] / "bench" / "macos"):
        readme = (folder / "README.md").read_text()
        files = {path.name for path in folder.iterdir()} - {"README.md"}
        assert files == {name for name in readme.split("`") if "." in name and name in files}
        assert files


@pytest.mark.parametrize(
    ("file", "page_bytes", "free_pages"),
    [
        ("vm_stat_intel_2018.txt", 4096, 90662 + 38418 + 1553942),
        ("vm_stat_intel_32gb.txt", 4096, 6127229 + 430715 + 628646),
        ("vm_stat_arm_2025.txt", 16384, 3857 + 1075 + 443760),
        ("vm_stat_macos26_arm.txt", 16384, 187161 + 17000 + 522804),
    ],
)
def test_free_memory_is_unused_read_ahead_and_inactive_pages(
    file: str, page_bytes: int, free_pages: int
) -> None:
    assert mac.free_bytes((OUTPUTS / file).read_text()) == page_bytes * free_pages


@pytest.mark.parametrize(
    "text",
    ["", "vm_stat: no such thing", MACOS_26.partition("\n")[2], MACOS_26.replace("free:", "lost:"),
     MACOS_26.replace("187161.", "-1."), MACOS_26.replace("187161.", "٣."), "\x00\n" * 9],
)  # fmt: skip
def test_an_output_without_page_size_or_free_pages_is_none(text: str) -> None:
    assert mac.free_bytes(text) is None


@pytest.mark.parametrize(
    ("file", "cores"),
    [
        ("system_profiler_m1.json", 7),
        ("system_profiler_m1_pro.json", 16),
        ("system_profiler_m2_max.json", 30),
        ("system_profiler_m3_pro.json", 14),
        ("system_profiler_m4.json", 10),
        ("system_profiler_m5_max_macos27.json", 40),
    ],
)
def test_gpu_cores_of_every_generation(file: str, cores: int) -> None:
    assert mac.gpu_cores_in((OUTPUTS / file).read_text()) == cores


def test_the_apple_gpu_is_the_one_with_cores() -> None:
    report = '{"SPDisplaysDataType": [{"sppci_model": "AMD Radeon Pro"}, {"sppci_cores": "38"}]}'
    assert mac.gpu_cores_in(report) == 38


@pytest.mark.parametrize(
    "report",
    ["", "not JSON", "[]", "{}", "null", '{"SPDisplaysDataType": {}}', '{"SPDisplaysDataType": 3}',
     '{"SPDisplaysDataType": ["x"]}', '{"SPDisplaysDataType": [{"sppci_cores": 30}]}',
     '{"SPDisplaysDataType": [{"sppci_cores": "0"}]}', "[" * 100_000,
     '{"SPDisplaysDataType": [{"sppci_cores": "many"}, {"sppci_model": "Intel"}]}'],
)  # fmt: skip
def test_a_report_without_cores_is_none(report: str) -> None:
    assert mac.gpu_cores_in(report) is None


def run_as_mac(monkeypatch: pytest.MonkeyPatch, *outputs: Any) -> list[tuple[str, ...]]:
    """Let every program print the next output, with its status; an exception is raised."""
    commands: list[tuple[str, ...]] = []
    following = iter(outputs)

    def run(command: tuple[str, ...], **options: Any) -> subprocess.CompletedProcess[str]:
        commands.append(command)
        assert options["timeout"] > 0
        assert options["stdin"] is subprocess.DEVNULL
        output = next(following)
        if isinstance(output, Exception):
            raise output
        text, status = output if isinstance(output, tuple) else (output, 0)
        return subprocess.CompletedProcess(command, status, text, "")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_sysctl_gives_the_asked_variables_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (OUTPUTS / "sysctl_m2_pro_macos26.txt").read_text()
    commands = run_as_mac(monkeypatch, text)
    variables = mac.sysctl(mac.MEMORY_SIZE, mac.WIRED_LIMIT)
    assert commands == [("/usr/sbin/sysctl", "hw.memsize", "iogpu.wired_limit_mb")]
    assert variables == {"hw.memsize": "34359738368", "iogpu.wired_limit_mb": "0"}
    assert mac.memory_size(variables) == 32 * GIB
    assert mac.wired_limit_bytes(variables) == 0


def test_a_variable_that_this_mac_lacks_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intel Macs have no iogpu: sysctl prints the others and fails."""
    run_as_mac(monkeypatch, ((OUTPUTS / "sysctl_m4_pro_2025.txt").read_text(), 1))
    variables = mac.sysctl(mac.MEMORY_SIZE, mac.WIRED_LIMIT)
    assert mac.memory_size(variables) == 24 * GIB
    assert mac.wired_limit_bytes(variables) is None


def test_a_raised_wired_limit_is_in_mebibytes() -> None:
    assert mac.wired_limit_bytes({mac.WIRED_LIMIT: "26000"}) == 26000 << 20
    for text in ("26000 -> 26000", "-1", "", "٣", "9" * 40):
        assert mac.wired_limit_bytes({mac.WIRED_LIMIT: text}) is None


@pytest.mark.parametrize(
    "output",
    [("half an outp", 1), FileNotFoundError(), PermissionError(),
     subprocess.TimeoutExpired("program", 5)],
)  # fmt: skip
def test_a_program_that_is_missing_fails_or_hangs_prints_nothing(
    output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_as_mac(monkeypatch, *[output] * 4)
    assert mac.command_output("program") == ""
    assert mac.free_now() is None
    assert mac.gpu_cores() is None
    assert mac.sysctl(mac.BRAND) == {}


def test_programs_really_run_and_their_bytes_need_not_be_text() -> None:
    assert mac.command_output("printf", r"a\377b\n") == "a\ufffdb"
    assert mac.command_output("sh", "-c", "echo part; exit 3") == ""
    assert mac.command_output("sh", "-c", "echo part; exit 3", any_status=True) == "part"
    assert mac.command_output("/no/such/program") == ""


def test_other_systems_do_not_start_system_profiler(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = run_as_mac(monkeypatch)
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert mac.gpu_cores() is None
    assert commands == []


@pytest.mark.parametrize("output", [MACOS_26, OSError()])
def test_the_budget_of_a_mac_and_the_free_part_of_it(
    output: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = {"max_recommended_working_set_size": 12 * GIB, "memory_size": 16 * GIB}
    gpu = SimpleNamespace(type=mx.DeviceType.gpu)
    commands = run_as_mac(monkeypatch, output, output)
    monkeypatch.setattr(mx, "default_device", lambda: gpu)
    monkeypatch.setattr(mx, "device_info", lambda: info)
    known = output == MACOS_26
    budget = machine.this_machine_now()
    assert budget.budget_bytes == 12 * GIB
    assert budget.free_bytes == (mac.free_bytes(MACOS_26) if known else None)
    info["max_recommended_working_set_size"] = 2 * GIB
    assert machine.this_machine_now().free_bytes == (2 * GIB if known else None)
    assert commands == [("/usr/bin/vm_stat",)] * 2
