"""Apple's chips: how fast their memory is, which is what bounds decoding."""

from __future__ import annotations

import platform
import re
import subprocess
from dataclasses import dataclass

from mlx_mistral.errors import MemoryBudgetError

SYSCTL = "/usr/sbin/sysctl"
SYSCTL_SECONDS = 5.0
_NAME = re.compile(r"(?:apple\s*)?(m\d{1,2})\s*(pro|max|ultra)?(?:[\s,-]*(\d{1,3})[\s-]*cores?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A chip with one of the GPUs that it is sold with."""

    name: str
    """Without the maker: M1, M2 Max."""
    gpu_cores: int | None
    bandwidth_gbs: float
    """Of the memory, nominal, in 10^9 bytes a second. Copies reach 83 to 92% of it."""
    memory_gb: tuple[int, ...]
    """Sizes that it is sold with, in 2^30 bytes."""

    def __str__(self) -> str:
        cores = f" with {self.gpu_cores} GPU cores" if self.gpu_cores else ""
        return f"{self.name}{cores}, {self.bandwidth_gbs:g} GB/s"

    @property
    def tier(self) -> str:
        """Pro, Max or Ultra; empty for the base chip."""
        return self.name.partition(" ")[2]


def _chip(name: str, gpu_cores: int | None, bandwidth_gbs: float, *memory_gb: int) -> Chip:
    return Chip(name=name, gpu_cores=gpu_cores, bandwidth_gbs=bandwidth_gbs, memory_gb=memory_gb)


CHIPS = (
    _chip("M1", 7, 68, 8, 16),
    _chip("M1", 8, 68, 8, 16),
    _chip("M1 Pro", 14, 200, 16, 32),
    _chip("M1 Pro", 16, 200, 16, 32),
    _chip("M1 Max", 24, 400, 32, 64),
    _chip("M1 Max", 32, 400, 32, 64),
    _chip("M1 Ultra", 48, 800, 64, 128),
    _chip("M1 Ultra", 64, 800, 64, 128),
    _chip("M2", 8, 100, 8, 16, 24),
    _chip("M2", 10, 100, 8, 16, 24),
    _chip("M2 Pro", 16, 200, 16, 32),
    _chip("M2 Pro", 19, 200, 16, 32),
    _chip("M2 Max", 30, 400, 32, 64),
    _chip("M2 Max", 38, 400, 32, 64, 96),
    _chip("M2 Ultra", 60, 800, 64, 128, 192),
    _chip("M2 Ultra", 76, 800, 64, 128, 192),
    _chip("M3", 8, 100, 8, 16, 24),
    _chip("M3", 10, 100, 8, 16, 24),
    _chip("M3 Pro", 14, 150, 18, 36),
    _chip("M3 Pro", 18, 150, 18, 36),
    _chip("M3 Max", 30, 300, 36, 96),
    _chip("M3 Max", 40, 400, 48, 64, 128),
    _chip("M3 Ultra", 60, 819, 96, 256),
    _chip("M3 Ultra", 80, 819, 96, 256, 512),
    _chip("M4", 8, 120, 16, 24),
    _chip("M4", 10, 120, 16, 24, 32),
    _chip("M4 Pro", 16, 273, 24, 48, 64),
    _chip("M4 Pro", 20, 273, 24, 48, 64),
    _chip("M4 Max", 32, 410, 36),
    _chip("M4 Max", 40, 546, 48, 64, 128),
    _chip("M5", 8, 153, 16, 24),
    _chip("M5", 10, 153, 16, 24, 32),
    _chip("M5 Pro", 16, 307, 24, 48, 64),
    _chip("M5 Pro", 20, 307, 24, 48, 64),
    _chip("M5 Max", 32, 460, 36),
    _chip("M5 Max", 40, 614, 48, 64, 128),
    _chip("M5 Ultra", None, 1200),
)
"""By generation and size, the smaller GPU first; no cores and no sizes where they are not known.

Sources: bandwidth and GPU cores as in llama.cpp's collection of Apple silicon runs
(github.com/ggml-org/llama.cpp/discussions/4167), M5 Pro to Ultra from reports of Apple's
announcements of 2026; sizes of memory and the smaller GPUs from Apple's technical
specifications as they are commonly listed, those of M5 Pro and Max as their forerunners'.
There is no M4 Ultra.
"""


def find_chip(text: str, *, memory_bytes: int | None = None) -> Chip:
    """The chip that a name means: `Apple M2 Max`, `m3 max`, `M4 Max 32-core`.

    memory_bytes: of the machine. Variants with another bandwidth come with other memory, which
    tells them apart; where nothing does, it is the slower one.
    Raises: MemoryBudgetError: no such chip.
    """
    match = _NAME.fullmatch(" ".join(text.lower().split()))
    name = f"{match[1].upper()} {(match[2] or '').title()}".strip() if match else ""
    named = [chip for chip in CHIPS if chip.name == name]
    if match and match[3]:
        named = [chip for chip in named if chip.gpu_cores == int(match[3])]
    if not named:
        raise MemoryBudgetError(
            f"no Apple chip {text!r} is known; write M1, M2 Pro, M3 Max, M4 Max 32-core, …"
        )
    memory_gb = round(memory_bytes / 2**30) if memory_bytes else None
    fitting = [chip for chip in named if memory_gb in chip.memory_gb]
    return min(fitting or named, key=lambda chip: chip.bandwidth_gbs)


def this_chip() -> Chip | None:
    """The chip of this machine; None where it is no Mac, or one that is not in the table."""
    if platform.system() != "Darwin":
        return None
    try:
        told = subprocess.run(
            [SYSCTL, "-n", "machdep.cpu.brand_string", "hw.memsize"],
            capture_output=True, text=True, check=True, timeout=SYSCTL_SECONDS,
        )  # fmt: skip
        name, memory = told.stdout.splitlines()
        return find_chip(name, memory_bytes=int(memory))
    except (OSError, subprocess.SubprocessError, ValueError, MemoryBudgetError):
        return None
