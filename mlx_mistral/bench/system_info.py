"""The machine that runs the tests: chip, memory, system, power and heat.

Two people compare these facts before they compare figures.
"""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_mistral
from mlx_mistral.backend.device import device_kind, device_name
from mlx_mistral.errors import MemoryBudgetError
from mlx_mistral.memory import mac
from mlx_mistral.memory.mac import command_output
from mlx_mistral.memory.machine import machine_budget, this_machine_now

SETTINGS = re.compile(r"MLX_\w+|LD_PRELOAD|DYLD_INSERT_LIBRARIES|\w+_NUM_THREADS")
"""Variables of the environment that change speed."""
PMSET = "/usr/bin/pmset"
SW_VERS = "/usr/bin/sw_vers"
_POWER_MODES = {"1": "low power mode", "2": "high power mode"}


def machine_card() -> dict[str, Any]:
    """Return the facts of this machine that change speed, for reports; a Mac takes a second.

    `memory_bytes` is the size of the memory, or a container's limit. Unknown values are None.
    """
    variables = mac.sysctl(mac.BRAND, mac.MEMORY_SIZE, mac.WIRED_LIMIT) if mac.is_mac() else {}
    return {
        "chip": chip(variables),
        "gpu_cores": mac.gpu_cores(),
        "cores": os.cpu_count(),
        "device": device_name(),
        "backend": backend(),
        "memory_bytes": mac.memory_size(variables) or machine_budget(),
        "working_set_bytes": working_set_bytes(),
        "wired_limit_bytes": mac.wired_limit_bytes(variables),
        "free_bytes": free_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "os_version": os_version(),
        "architecture": platform.machine(),
        "power": power(),
        "thermal": thermal(),
        "environment": {
            name: Path(value).name if "/" in value else value
            for name, value in sorted(os.environ.items())
            if SETTINGS.fullmatch(name)
        },
    }


def versions(*others: str) -> dict[str, str | None]:
    """Return versions of this program, MLX, Python and other packages, and a checkout's commit."""
    package_versions: dict[str, str | None] = {
        "mlx_mistral": mlx_mistral.__version__,
        "mlx": metadata.version("mlx"),
        "python": platform.python_version(),
    }
    for name in others:
        package_versions[name] = metadata.version(name)
    return {**package_versions, "commit": commit(Path(mlx_mistral.__file__).parents[1])}


def chip(variables: dict[str, str]) -> str:
    """Return the processor's name, such as `Apple M3 Max`. variables: of `sysctl`."""
    name = variables.get(mac.BRAND) or _field(Path("/proc/cpuinfo"), "model name")
    return name or platform.processor() or platform.machine()


def backend() -> str:
    """Return the kind of device that MLX computes on: CPU, Metal or CUDA."""
    return {"cpu": "CPU", "metal": "Metal", "cuda": "CUDA"}[device_kind()]


def os_version() -> str:
    """Return the system and its version, such as `macOS 15.6.1` or `Ubuntu 24.04.3 LTS`.

    `sw_vers`, because `platform.mac_ver` reports 16.0 for macOS 26 where Python was built with an
    older SDK (github.com/python/cpython/issues/135675).
    """
    if mac.is_mac():
        version = re.search(r"ProductVersion:\s*(\S+)", command_output(SW_VERS))
        return f"macOS {version[1]}" if version else "macOS"
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return f"{platform.system()} {platform.release()}"


def working_set_bytes() -> int | None:
    """Return the memory that Metal recommends for a GPU program; None elsewhere."""
    size = mx.device_info().get("max_recommended_working_set_size")
    return size if isinstance(size, int) else None


def free_bytes() -> int | None:
    """Return the memory that is free now."""
    if mac.is_mac():
        return mac.free_now()
    try:
        return this_machine_now().free_bytes
    except MemoryBudgetError:
        return None


def power() -> str | None:
    """Return the source of power and the power mode of a Mac; None where it is unknown.

    Macs with a high power mode print `powermode`, 0 to 2, in place of `lowpowermode`.
    """
    if not mac.is_mac():
        return None
    source = re.search(r"drawing from '([^']+)'", command_output(PMSET, "-g", "batt"))
    mode = re.search(r"\b(?:low)?powermode\s+(\d)", command_output(PMSET, "-g"))
    parts = [source[1]] if source else []
    if mode and mode[1] in _POWER_MODES:
        parts.append(_POWER_MODES[mode[1]])
    return ", ".join(parts) or None


def thermal() -> str | None:
    """Return the limits that a hot Mac runs under; None where they are unknown.

    Apple silicon seldom records one: `no warning` does not prove full speed
    (github.com/exelban/stats/issues/749).
    """
    if not mac.is_mac():
        return None
    report = command_output(PMSET, "-g", "therm")
    limits = re.findall(r"([A-Za-z][A-Za-z_ ]*?)\s*=\s*(\d+)", report)
    if limits:
        return ", ".join(f"{name} {value}" for name, value in limits)
    return "no warning" if report else None


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with `+` where files differ from it; None elsewhere."""
    if not (folder / ".git").exists():
        return None
    git = ("git", "-C", str(folder))
    head = command_output(*git, "rev-parse", "--short=12", "HEAD")
    if not head:
        return None
    changes = command_output(*git, "status", "--porcelain", "--untracked-files=no")
    return head + ("+" if changes else "")


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
