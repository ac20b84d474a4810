"""Apple's chips: how fast their memory is, which is what bounds decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from mlx_mistral.errors import MemoryBudgetError

from . import mac

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
    _chip("M5 Ultra", 80, 1200, 96, 512),
    _chip("M6", 12, 170, 16),
)
"""By generation and size, the smaller GPU first; None and no sizes where they are unknown.

Sources: bandwidth and GPU cores as in llama.cpp's collection of Apple silicon runs
(github.com/ggml-org/llama.cpp/discussions/4167); sizes of memory and the smaller GPUs from Apple's
technical specifications as they are commonly listed. M5 Pro and Max: 307 GB/s, and 614 GB/s of the
40-core GPU (github.com/Andyyyy64/whichllm/pull/92), 460 GB/s of the 32-core GPU
(github.com/0xBakeer/inference-atlas/pull/194), sizes of memory as of M4 Pro and Max, at most 64 and
128 GB (github.com/huggingface/huggingface.js/pull/2033). M5 Ultra and M6: Apple's announcement of
25 August 2026 as in github.com/midudev/canirun.ai/pull/26, the 512 GB of an M5 Ultra as in
github.com/the-machine-herald/machineherald.io/pull/2284; a smaller GPU of the M5 Ultra, sizes
between its 96 and 512 GB, and more than the 16 GB of an M6 were not found.
There is no M4 Ultra.
"""


def find_chip(text: str, *, memory_bytes: int | None = None, gpu_cores: int | None = None) -> Chip:
    """Return the chip of a name: `Apple M2 Max`, `m3 max`, `M4 Max 32-core`.

    Several variants have one name. Of those, the GPU cores decide, then the size of the memory,
    which differs where the bandwidth does; without either it is the slower one.
    memory_bytes, gpu_cores: of the machine. A machine with cores that the table lacks keeps them.
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
    if gpu_cores and not (match and match[3]):
        same_gpu = [chip for chip in named if chip.gpu_cores == gpu_cores]
        named = same_gpu or [replace(chip, gpu_cores=gpu_cores) for chip in named]
    memory_gb = round(memory_bytes / 2**30) if memory_bytes else None
    fitting = [chip for chip in named if memory_gb in chip.memory_gb]
    return min(fitting or named, key=lambda chip: chip.bandwidth_gbs)


def this_chip(*, gpu_cores: int | None = None) -> Chip | None:
    """Return the chip of this Mac; None on other machines and for chips outside the table.

    gpu_cores: of this Mac, where the caller has asked `mac.gpu_cores`, which is slow. Without
    them the size of the memory decides between variants.
    """
    if not mac.is_mac():
        return None
    variables = mac.sysctl(mac.BRAND, mac.MEMORY_SIZE)
    try:
        return find_chip(
            variables.get(mac.BRAND, ""),
            memory_bytes=mac.memory_size(variables),
            gpu_cores=gpu_cores,
        )
    except MemoryBudgetError:
        return None
