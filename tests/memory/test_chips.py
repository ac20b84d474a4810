from __future__ import annotations

import itertools
import subprocess
from typing import Any

import pytest

from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.memory import find_chip, this_chip
from mlx_mistral.memory.chips import CHIPS, SYSCTL
from mlx_mistral.memory.speed import TIER_SHARE


def test_the_table_holds_every_generation_once_and_grows_with_the_size() -> None:
    families = {(chip.name, chip.gpu_cores) for chip in CHIPS}
    assert len(families) == len(CHIPS)
    names = {chip.name for chip in CHIPS}
    for generation in range(1, 6):
        for tier in TIER_SHARE:
            name = f"M{generation} {tier}".strip()
            assert (name in names) == (name != "M4 Ultra")
    assert {chip.tier for chip in CHIPS} == set(TIER_SHARE)
    for smaller, larger in itertools.pairwise(CHIPS):
        if smaller.name.split()[0] == larger.name.split()[0]:
            assert smaller.bandwidth_gbs <= larger.bandwidth_gbs


@pytest.mark.parametrize(
    ("text", "memory_gib", "name", "gpu_cores", "bandwidth"),
    [
        ("Apple M1", None, "M1", 7, 68),
        ("Apple M2 Max", 96, "M2 Max", 38, 400),
        ("m2 ultra", 192, "M2 Ultra", 60, 800),
        ("M3Max", None, "M3 Max", 30, 300),
        ("Apple M3 Max", 36, "M3 Max", 30, 300),
        ("Apple M3 Max", 64, "M3 Max", 40, 400),
        ("M3 Max 40-core", None, "M3 Max", 40, 400),
        ("m4 max, 32 cores", None, "M4 Max", 32, 410),
        ("Apple M4 Max", 128, "M4 Max", 40, 546),
        (" apple  M5  pro ", 1000, "M5 Pro", 16, 307),
        ("M5 Ultra", None, "M5 Ultra", None, 1200),
    ],
)
def test_a_name_finds_its_chip_and_memory_tells_variants_apart(
    text: str, memory_gib: int | None, name: str, gpu_cores: int | None, bandwidth: float
) -> None:
    chip = find_chip(text, memory_bytes=memory_gib * 2**30 if memory_gib else None)
    assert (chip.name, chip.gpu_cores, chip.bandwidth_gbs) == (name, gpu_cores, bandwidth)


@pytest.mark.parametrize(
    "text",
    ["", "M9", "M4 Ultra", "Intel(R) Core(TM) i9", "M2 Max 99-core", "M2 Max\x1b[2J", "M" * 999],
)
def test_what_is_no_chip_is_one_line(text: str) -> None:
    with pytest.raises(MemoryBudgetError, match="no Apple chip") as caught:
        find_chip(text)
    assert str(caught.value).isprintable()


def on_a_mac(monkeypatch: pytest.MonkeyPatch, told: str | Exception) -> list[list[str]]:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        if isinstance(told, Exception):
            raise told
        return subprocess.CompletedProcess(command, 0, told, "")

    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_a_mac_is_asked_for_its_chip_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_a_mac(monkeypatch, f"Apple M4 Max\n{64 * 2**30}\n")
    chip = this_chip()
    assert asked == [[SYSCTL, "-n", "machdep.cpu.brand_string", "hw.memsize"]]
    assert chip is not None
    assert str(chip) == "M4 Max with 40 GPU cores, 546 GB/s"


@pytest.mark.parametrize(
    "told",
    ["", "Apple M1\n", "Intel(R) Core(TM) i9\n123\n", "Apple M1\nmuch\n",
     OSError("gone"), subprocess.TimeoutExpired("sysctl", 5)],
)  # fmt: skip
def test_a_machine_that_does_not_tell_has_no_chip(
    told: str | Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_a_mac(monkeypatch, told)
    assert this_chip() is None


def test_other_systems_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = on_a_mac(monkeypatch, "Apple M1\n1\n")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert this_chip() is None
    assert asked == []
