"""What ran the tests, so that two people can tell whether their figures may be compared."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import mlx.core as mx

import mlx_mistral
from mlx_mistral.memory.machine import machine_budget

SETTINGS = re.compile(r"MLX_\w+|LD_PRELOAD|DYLD_INSERT_LIBRARIES|\w+_NUM_THREADS")
"""Variables of the environment that change speed."""
_SECONDS = 5
_IS_MAC = platform.system() == "Darwin"


def machine_card() -> dict[str, Any]:
    """Chip, memory, device, system, and what the system says of power and heat."""
    return {
        "chip": chip(),
        "cores": os.cpu_count(),
        "device": str(mx.device_info().get("device_name") or mx.default_device().type.name),
        "backend": backend(),
        "memory_bytes": machine_budget(),
        "system": f"{platform.system()} {platform.release()}",
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
    """Of this program, MLX, Python and other packages; the commit where this is a checkout."""
    found: dict[str, str | None] = {
        "mlx_mistral": mlx_mistral.__version__,
        "mlx": metadata.version("mlx"),
        "python": platform.python_version(),
    }
    for name in others:
        found[name] = metadata.version(name)
    return {**found, "commit": commit(Path(mlx_mistral.__file__).parents[1])}


def chip() -> str:
    """The processor's name, such as `Apple M3 Max`."""
    if _IS_MAC:
        named = _said_by("sysctl", "-n", "machdep.cpu.brand_string")
    else:
        named = _field(Path("/proc/cpuinfo"), "model name")
    return named or platform.processor() or platform.machine()


def backend() -> str:
    """What MLX computes with here."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "CPU"
    return "Metal" if mx.metal.is_available() else "CUDA"


def power() -> str | None:
    """Mains or battery, and whether the Mac saves power; None where nobody says."""
    if not _IS_MAC:
        return None
    drawn = re.search(r"drawing from '([^']+)'", _said_by("pmset", "-g", "batt"))
    saving = re.search(r"lowpowermode\s+(\d)", _said_by("pmset", "-g"))
    parts = [drawn[1]] if drawn else []
    if saving and saving[1] != "0":
        parts.append("low power mode")
    return ", ".join(parts) or None


def thermal() -> str | None:
    """Whether the Mac runs slower because it is hot; None where nobody says."""
    if not _IS_MAC:
        return None
    said = _said_by("pmset", "-g", "therm")
    limits = re.findall(r"(\w+)\s*=\s*(\d+)", said)
    if limits:
        return ", ".join(f"{name} {value}" for name, value in limits)
    return "no warning" if said else None


def commit(folder: Path) -> str | None:
    """The commit of a checkout, with `+` where files differ from it; None elsewhere."""
    if not (folder / ".git").exists():
        return None
    git = ("git", "-C", str(folder))
    at = _said_by(*git, "rev-parse", "--short=12", "HEAD")
    if not at:
        return None
    return at + ("+" if _said_by(*git, "status", "--porcelain", "--untracked-files=no") else "")


def _said_by(*command: str) -> str:
    """What a system's program prints; nothing where it is not there or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS, check=False, errors="replace"
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    pairs = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")
