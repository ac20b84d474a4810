"""Checks of the sources that the program asks about its machine: each must be understood."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from mlx_mistral.bench.system_info import PMSET, SW_VERS
from mlx_mistral.memory import mac
from mlx_mistral.memory.mac import command_output

from .check import Measurement, Probe

VIRTUAL_MACHINE = "kern.hv_vmm_present"
NOT_REPORTED = "not reported by this machine"
_ADVICE = "attach the output of `{command}` to a report: its format is new to this program"
MAC_SOURCES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "chip": ("chip", (mac.SYSCTL, "-n", mac.BRAND)),
    "memory size": ("memory_bytes", (mac.SYSCTL, "-n", mac.MEMORY_SIZE)),
    "free memory": ("free_bytes", (mac.VM_STAT,)),
    "wired limit": ("wired_limit_bytes", (mac.SYSCTL, "-n", mac.WIRED_LIMIT)),
    "GPU cores": ("gpu_cores", (mac.SYSTEM_PROFILER, "SPDisplaysDataType", "-json")),
    "macOS version": ("os_version", (SW_VERS,)),
    "power": ("power", (PMSET, "-g", "batt")),
    "heat": ("thermal", (PMSET, "-g", "therm")),
}
"""By the name of a fact: its key in the machine card, and the program that reports it."""
LINUX_SOURCES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "chip": ("chip", ("cat", "/proc/cpuinfo")),
    "memory size": ("memory_bytes", ("cat", "/proc/meminfo")),
    "free memory": ("free_bytes", ("cat", "/proc/meminfo")),
}
FALLBACKS = ("arm", "arm64", "macOS")
"""Values of a Mac's card where the source was not understood."""
MAY_BE_ABSENT = ("GPU cores", "wired limit", "power", "heat")
"""A virtual Mac has no battery and no GPU cores of its own."""


def machine_probes(card: Mapping[str, Any]) -> Iterator[Probe]:
    """Yield a check of each source. card: as `machine_card` returns it."""
    is_mac = mac.is_mac()
    is_virtual = is_mac and mac.sysctl(VIRTUAL_MACHINE).get(VIRTUAL_MACHINE) == "1"
    for name, (key, command) in (MAC_SOURCES if is_mac else LINUX_SOURCES).items():
        yield Probe(
            name=f"machine, {name}",
            measure=partial(
                reported, card.get(key), command, may_be_absent=is_virtual and name in MAY_BE_ABSENT
            ),
            advice=_ADVICE.format(command=" ".join(command)),
            is_quick=True,
        )


def reported(value: object, command: tuple[str, ...], *, may_be_absent: bool) -> Measurement:
    """Check that a fact is known, or that its source reports nothing.

    Args:
        may_be_absent: whether the source may report something else on this machine.
    """
    is_unknown = isinstance(value, bool) or value in ("", *FALLBACKS)
    if isinstance(value, str | int) and not is_unknown:
        return Measurement(value=value)
    if may_be_absent or not command_output(*command):
        return Measurement(value=NOT_REPORTED)
    return Measurement(value="not understood", ok=False)
