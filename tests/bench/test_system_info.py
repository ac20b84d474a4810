"""Facts of a machine, on a Mac from outputs that people published: see macos/README.md."""

from __future__ import annotations

import json
import platform
import subprocess
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral.bench import system_info
from mlx_mistral.memory import mac

OUTPUTS = Path(__file__).with_name("macos")
OTHER_OUTPUTS = Path(__file__).parents[1] / "memory" / "macos"
GIB = 1 << 30
PMSET = "/usr/bin/pmset"


def text_of(name: str) -> str:
    folder = OUTPUTS if (OUTPUTS / name).is_file() else OTHER_OUTPUTS
    return (folder / name).read_text()


def on_a_mac(monkeypatch: pytest.MonkeyPatch, outputs: dict[tuple[str, ...], str]) -> None:
    """Let programs print these outputs, and nothing where there is none for a command."""

    def run(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        if command not in outputs:
            raise FileNotFoundError
        return subprocess.CompletedProcess(command, 0, outputs[command], "")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)


@pytest.mark.parametrize(
    ("battery", "settings", "expected"),
    [
        ("pmset_batt_ac_m1.txt", "pmset_lowpowermode_off_macos12.txt", "AC Power"),
        ("pmset_batt_battery_2026.txt", "pmset_lowpowermode_off_macos12.txt", "Battery Power"),
        ("pmset_batt_desktop.txt", "pmset_powermode_2_2026.txt", "AC Power, high power mode"),
    ],
)
def test_the_power_of_a_mac(
    battery: str, settings: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = {(PMSET, "-g", "batt"): text_of(battery), (PMSET, "-g"): text_of(settings)}
    on_a_mac(monkeypatch, outputs)
    assert system_info.power() == expected


@pytest.mark.parametrize(
    ("file", "line", "mode"),
    [
        ("pmset_lowpowermode_off_macos12.txt", "lowpowermode         {}", "low power mode"),
        ("pmset_powermode_2_2026.txt", "powermode            {}", "low power mode"),
    ],
)
def test_both_names_of_the_low_power_mode(
    file: str, line: str, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published outputs with one digit changed: `powermode` is the name on Pro and Max Macs."""
    settings = text_of(file)
    digit = "0" if "lowpowermode" in settings else "2"
    assert line.format(digit) in settings
    for value, expected in (("1", f"AC Power, {mode}"), ("0", "AC Power")):
        changed = settings.replace(line.format(digit), line.format(value))
        on_a_mac(
            monkeypatch,
            {(PMSET, "-g", "batt"): text_of("pmset_batt_desktop.txt"), (PMSET, "-g"): changed},
        )
        assert system_info.power() == expected


@pytest.mark.parametrize(
    ("report", "expected"),
    [
        (text_of("pmset_therm_apple_silicon.txt"), "no warning"),
        (
            text_of("pmset_therm_intel.txt"),
            "CPU_Scheduler_Limit 100, CPU_Available_CPUs 12, CPU_Speed_Limit 100",
        ),
        (
            text_of("pmset_therm_intel_throttled.txt"),
            "CPU_Scheduler_Limit 40, CPU_Available_CPUs 8, CPU_Speed_Limit 28",
        ),
        ("2026-06-26 12:30:37 +0200 Thermal Warning Level = 5\n", "Thermal Warning Level 5"),
    ],
)
def test_the_heat_of_a_mac(report: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line is as Apple's published pmset.m prints it."""
    on_a_mac(monkeypatch, {(PMSET, "-g", "therm"): report})
    assert system_info.thermal() == expected


def test_the_version_of_macos_is_that_of_sw_vers(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, {("/usr/bin/sw_vers",): text_of("sw_vers_14.txt")})
    monkeypatch.setattr(platform, "mac_ver", lambda: ("16.0", ("", "", ""), "arm64"))
    assert system_info.os_version() == "macOS 14.2.1"
    on_a_mac(monkeypatch, {})
    assert system_info.os_version() == "macOS"


def test_other_systems_name_their_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "release", lambda: "6.8.0")
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: {"PRETTY_NAME": "Debian 13"})
    assert system_info.os_version() == "Debian 13"

    def missing() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert system_info.os_version() == "Linux 6.8.0"


def test_the_card_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs of several Macs, joined: no published set is of one Mac."""
    variables = text_of("sysctl_m1_pro_macos26.txt") + text_of("sysctl_m2_pro_macos26.txt")
    outputs = {
        (mac.SYSCTL, mac.BRAND, mac.MEMORY_SIZE, mac.WIRED_LIMIT): variables,
        (mac.SYSTEM_PROFILER, "SPDisplaysDataType", "-json"): text_of(
            "system_profiler_m1_pro.json"
        ),
        (mac.VM_STAT,): text_of("vm_stat_macos26_arm.txt"),
        (PMSET, "-g", "batt"): text_of("pmset_batt_ac_m1.txt"),
        (PMSET, "-g"): text_of("pmset_powermode_2_2026.txt"),
        (PMSET, "-g", "therm"): text_of("pmset_therm_apple_silicon.txt"),
        ("/usr/bin/sw_vers",): text_of("sw_vers_14.txt"),
    }
    on_a_mac(monkeypatch, outputs)
    info = {"device_name": "Apple M1 Pro", "max_recommended_working_set_size": 25 * GIB}
    monkeypatch.setattr(mx, "device_info", lambda: info)
    card = system_info.machine_card()
    expected = {
        "chip": "Apple M1 Pro",
        "gpu_cores": 16,
        "device": "Apple M1 Pro",
        "memory_bytes": 32 * GIB,
        "working_set_bytes": 25 * GIB,
        "wired_limit_bytes": 0,
        "free_bytes": 16384 * (187161 + 17000 + 522804),
        "os_version": "macOS 14.2.1",
        "power": "AC Power, high power mode",
        "thermal": "no warning",
    }
    assert {name: card[name] for name in expected} == expected


def test_the_card_of_a_mac_whose_programs_fail_has_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, {})
    card = system_info.machine_card()
    unknown = ("gpu_cores", "wired_limit_bytes", "free_bytes", "power", "thermal")
    assert {card[name] for name in unknown} == {None}
    assert card["chip"]
    assert card["memory_bytes"] > 1 << 20


def test_the_card_of_this_machine_is_json_with_the_settings_that_change_speed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "77")
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    card = system_info.machine_card()
    assert set(card) == {
        "chip", "gpu_cores", "cores", "device", "backend", "memory_bytes", "working_set_bytes",
        "wired_limit_bytes", "free_bytes", "system", "os_version", "architecture", "power",
        "thermal", "environment",
    }  # fmt: skip
    assert json.loads(json.dumps(card)) == card
    assert card["environment"]["MLX_MAX_OPS_PER_BUFFER"] == "77"
    assert "LD_PRELOAD_NOT" not in card["environment"]
    assert card["backend"] in ("CPU", "Metal", "CUDA")
    assert {"mlx", "mlx_mistral", "python", "commit"} <= set(system_info.versions())


def test_a_checkout_has_its_commit_and_a_sign_of_changed_files(tmp_path: Path) -> None:
    assert system_info.commit(tmp_path) is None

    def git(*words: str) -> str:
        author = ("-c", "user.name=a", "-c", "user.email=a@example.com")
        command = ("git", "-C", str(tmp_path), *author, *words)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    assert system_info.commit(tmp_path) is None
    (tmp_path / "file").write_text("first")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    assert system_info.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "file").write_text("second")
    assert system_info.commit(tmp_path) == git("rev-parse", "--short=12", "HEAD") + "+"
