"""Facts of a Mac, from the programs that macOS ships.

Source: the manual pages and published sources of vm_stat, sysctl, pmset and system_profiler, and
outputs that people published (tests/memory/macos/README.md).
"""

from __future__ import annotations

import json
import platform
import re
import subprocess

VM_STAT = "/usr/bin/vm_stat"
SYSCTL = "/usr/sbin/sysctl"
SYSTEM_PROFILER = "/usr/sbin/system_profiler"
BRAND, MEMORY_SIZE = "machdep.cpu.brand_string", "hw.memsize"
WIRED_LIMIT = "iogpu.wired_limit_mb"
COMMAND_SECONDS = 5.0
"""Longest wait for a program; system_profiler takes 0.2 to 1 second, the others less than 0.05."""
_PAGE_SIZE = re.compile(r"page size of (\d+) bytes", re.ASCII)
_COUNT = re.compile(r"(Pages [a-z ]+):\s+(\d+)\.", re.ASCII)
_FREE = ("Pages free", "Pages speculative", "Pages inactive")
"""Unused, read ahead, and not used recently: macOS gives up the last two first.

`vm_stat` subtracts the speculative pages from the free ones before it prints them. Purgeable pages
are among the inactive and the active ones, so they are not added.
"""


def is_mac() -> bool:
    """Return whether this is macOS."""
    return platform.system() == "Darwin"


def command_output(*command: str, any_status: bool = False) -> str:
    """Return the text that a program prints; empty where it is missing, fails or takes too long.

    any_status: return the text of a program that fails as well.
    """
    try:
        finished = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return finished.stdout.strip() if any_status or finished.returncode == 0 else ""


def sysctl(*names: str) -> dict[str, str]:
    """Return kernel variables by name, without those that this Mac does not have.

    For a name that it does not know, `sysctl` prints the others and exits with status 1.
    """
    lines = command_output(SYSCTL, *names, any_status=True).splitlines()
    pairs = (line.partition(":") for line in lines)
    return {name: value.strip() for name, _, value in pairs if name in names}


def memory_size(variables: dict[str, str]) -> int | None:
    """Return the bytes of memory that `sysctl` reports."""
    return _integer(variables.get(MEMORY_SIZE))


def wired_limit_bytes(variables: dict[str, str]) -> int | None:
    """Return the most bytes that the GPU may wire; 0 is the system's own limit, None unknown."""
    mebibytes = _integer(variables.get(WIRED_LIMIT))
    return None if mebibytes is None else mebibytes << 20


def gpu_cores() -> int | None:
    """Return the cores of this Mac's GPU. Slow: for reports, not for loading a model."""
    if not is_mac():
        return None
    return gpu_cores_in(command_output(SYSTEM_PROFILER, "SPDisplaysDataType", "-json"))


def gpu_cores_in(report: str) -> int | None:
    """Return `sppci_cores` of the Apple GPU in a report of displays; other GPUs lack that key."""
    try:
        graphics = json.loads(report)["SPDisplaysDataType"]
        counts = [_integer(card.get("sppci_cores")) for card in graphics]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return next((count for count in counts if count), None)


def free_now() -> int | None:
    """Return the bytes that programs can have before others are swapped out; None: unknown."""
    return free_bytes(command_output(VM_STAT))


def free_bytes(vm_stat: str) -> int | None:
    """Return the free bytes in the output of `vm_stat`; None without page size and free pages.

    Its first line ends in `(page size of 16384 bytes)`; the others are as
    `Pages free:                               51421.`
    """
    size = _PAGE_SIZE.search(vm_stat)
    counts = {
        match[1]: int(match[2]) for line in vm_stat.splitlines() if (match := _COUNT.match(line))
    }
    if size is None or _FREE[0] not in counts:
        return None
    return int(size[1]) * sum(counts.get(name, 0) for name in _FREE)


def _integer(text: object) -> int | None:
    return int(text) if isinstance(text, str) and re.fullmatch(r"[0-9]{1,19}", text) else None
