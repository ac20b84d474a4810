from __future__ import annotations

import itertools
import platform
from pathlib import Path

import pytest

from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.memory import find_chip, mac, this_chip
from mlx_mistral.memory.chips import CHIPS
from mlx_mistral.memory.speed import TIER_SHARE

OUTPUTS = Path(__file__).with_name("macos")


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
        ("M5 Pro 20-core", None, "M5 Pro", 20, 307),
        ("M5 Max", None, "M5 Max", 32, 460),
        ("M5 Max 32-core", None, "M5 Max", 32, 460),
        ("Apple M5 Max", 36, "M5 Max", 32, 460),
        ("Apple M5 Max", 64, "M5 Max", 40, 614),
        ("m5 max, 40 cores", None, "M5 Max", 40, 614),
        ("M5 Ultra", None, "M5 Ultra", 80, 1200),
        ("Apple M5 Ultra", 512, "M5 Ultra", 80, 1200),
        ("M6", None, "M6", 12, 170),
    ],
)
def test_a_name_and_the_memory_find_the_variant_of_a_chip(
    text: str, memory_gib: int | None, name: str, gpu_cores: int | None, bandwidth: float
) -> None:
    chip = find_chip(text, memory_bytes=memory_gib * 2**30 if memory_gib else None)
    assert (chip.name, chip.gpu_cores, chip.bandwidth_gbs) == (name, gpu_cores, bandwidth)


@pytest.mark.parametrize(
    "text",
    ["", "M9", "M4 Ultra", "Intel(R) Core(TM) i9", "M2 Max 99-core", "M2 Max\x1b[2J", "M" * 999],
)
def test_another_name_is_an_error_of_one_line(text: str) -> None:
    with pytest.raises(MemoryBudgetError, match="no Apple chip") as caught:
        find_chip(text)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "memory_gib", "gpu_cores", "expected"),
    [
        ("Apple M4 Max", None, 40, (40, 546)),
        ("Apple M4 Max", 36, 40, (40, 546)),
        ("Apple M5 Max", None, 32, (32, 460)),
        ("Apple M5 Max", None, 40, (40, 614)),
        ("Apple M1", 16, 8, (8, 68)),
        ("Apple M5 Ultra", 96, 60, (60, 1200)),
        ("Apple M4 Max", 64, 99, (99, 546)),
        ("M4 Max 32-core", None, 40, (32, 410)),
        ("Apple M4 Max", 64, None, (40, 546)),
    ],
)
def test_gpu_cores_decide_before_the_memory_does(
    text: str, memory_gib: int | None, gpu_cores: int | None, expected: tuple[int, float]
) -> None:
    """A count that the table lacks is true all the same; cores in the name are the user's."""
    memory_bytes = memory_gib * 2**30 if memory_gib else None
    chip = find_chip(text, memory_bytes=memory_bytes, gpu_cores=gpu_cores)
    assert (chip.gpu_cores, chip.bandwidth_gbs) == expected


def on_a_mac(monkeypatch: pytest.MonkeyPatch, output: str) -> list[tuple[str, ...]]:
    commands: list[tuple[str, ...]] = []

    def command_output(*command: str, any_status: bool = False) -> str:
        commands.append(command)
        return output

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(mac, "command_output", command_output)
    return commands


def test_sysctl_names_the_chip_of_a_mac_and_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = on_a_mac(
        monkeypatch, f"machdep.cpu.brand_string: Apple M4 Max\nhw.memsize: {64 * 2**30}\n"
    )
    assert str(this_chip()) == "M4 Max with 40 GPU cores, 546 GB/s"
    assert commands == [("/usr/sbin/sysctl", "machdep.cpu.brand_string", "hw.memsize")]
    assert str(this_chip(gpu_cores=32)) == "M4 Max with 32 GPU cores, 410 GB/s"


@pytest.mark.parametrize(
    ("brand", "memory", "profiler", "expected"),
    [
        ("m1", None, "m1", "M1 with 7 GPU cores, 68 GB/s"),
        ("m1_pro_macos26", "m4_pro_2025", "m1_pro", "M1 Pro with 16 GPU cores, 200 GB/s"),
        ("m1_pro_macos26", "m2_pro_macos26", None, "M1 Pro with 14 GPU cores, 200 GB/s"),
    ],
)
def test_published_outputs_of_sysctl_and_system_profiler_name_the_chip(
    brand: str,
    memory: str | None,
    profiler: str | None,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory is another output, of a Mac that is sold with as much."""
    texts = [(OUTPUTS / f"sysctl_{name}.txt").read_text() for name in (brand, memory) if name]
    on_a_mac(monkeypatch, "".join(texts))
    report = OUTPUTS / f"system_profiler_{profiler}.json"
    cores = mac.gpu_cores_in(report.read_text()) if profiler else None
    assert str(this_chip(gpu_cores=cores)) == expected


@pytest.mark.parametrize(
    "output",
    ["", "hw.memsize: 17179869184\n", "machdep.cpu.brand_string: Intel(R) Core(TM) i9\n",
     (OUTPUTS / "sysctl_m1_preproduction.txt").read_text()],
)  # fmt: skip
def test_a_mac_with_another_chip_has_none(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, output)
    assert this_chip() is None


def test_a_chip_without_a_memory_size_is_still_that_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_mac(monkeypatch, "machdep.cpu.brand_string: Apple M3 Max\nhw.memsize: much\n")
    assert str(this_chip()) == "M3 Max with 30 GPU cores, 300 GB/s"


def test_other_systems_have_no_chip_and_run_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = on_a_mac(monkeypatch, "machdep.cpu.brand_string: Apple M1\n")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    assert this_chip() is None
    assert commands == []
