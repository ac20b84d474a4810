"""How much memory this machine gives a model."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from mlx_mistral.errors import MemoryBudgetError

from . import mac


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A budget, where it comes from, and what of it is free now (None: not told)."""

    budget_bytes: int
    source: str
    free_bytes: int | None = None


def this_machine() -> Machine:
    """The GPU's memory where MLX computes on one, else what Linux or the system grants.

    On Metal the working set that the system recommends, which leaves it room to run.
    Raises: MemoryBudgetError: the system does not tell.
    """
    return _device() or (linux() if sys.platform == "linux" else _physical())


def this_machine_now() -> Machine:
    """Return `this_machine` with the memory that is free now, on a Mac as `vm_stat` reports it."""
    machine = this_machine()
    if machine.free_bytes is not None or not mac.is_mac():
        return machine
    free = mac.free_now()
    return replace(machine, free_bytes=None if free is None else min(free, machine.budget_bytes))


def machine_budget() -> int | None:
    """The budget of whoever gives none; None where the system does not tell."""
    try:
        return this_machine().budget_bytes
    except MemoryBudgetError:
        return None


def linux(root: Path = Path("/")) -> Machine:
    """The smaller of physical memory and this process's cgroup limit, of version 1 or 2.

    root: where `proc` and `sys` are mounted. Raises: MemoryBudgetError: /proc/meminfo is no such.
    """
    meminfo = _read_meminfo(root / "proc/meminfo")
    physical = meminfo.get("MemTotal")
    if not physical:
        raise MemoryBudgetError(
            "/proc/meminfo does not tell the size of the memory; give it with --memory"
        )
    limit = min(_cgroup_limits(root), default=physical)
    available = meminfo.get("MemAvailable")
    if limit < physical:
        free = None if available is None else min(available, limit)
        return Machine(budget_bytes=limit, source="this cgroup's limit", free_bytes=free)
    return Machine(budget_bytes=physical, source="physical memory", free_bytes=available)


def from_device_info(info: Mapping[str, str | int]) -> Machine | None:
    """From what MLX tells of a GPU: `max_recommended_working_set_size` or `total_memory`."""
    for key, source in (
        ("max_recommended_working_set_size", "Metal's recommended working set"),
        ("total_memory", "the GPU's memory"),
    ):
        n_bytes, free = info.get(key), info.get("free_memory")
        if isinstance(n_bytes, int) and n_bytes > 0:
            free_bytes = free if isinstance(free, int) else None
            return Machine(budget_bytes=n_bytes, source=source, free_bytes=free_bytes)
    return None


def _device() -> Machine | None:
    import mlx.core as mx

    from mlx_mistral.backend.device import on_gpu

    if not on_gpu():
        return None
    return from_device_info(mx.device_info())


def _physical() -> Machine:
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        n_bytes = 0
    if n_bytes < 1:
        raise MemoryBudgetError("the size of this machine's memory is unknown; give --memory")
    return Machine(budget_bytes=n_bytes, source="physical memory")


def _read_meminfo(path: Path) -> dict[str, int]:
    """Bytes by name, from lines such as `MemTotal:  24684096 kB`."""
    found = {}
    for line in _lines(path):
        name, _, rest = line.partition(":")
        number, _, unit = rest.strip().partition(" ")
        if number.isdecimal() and unit == "kB":
            found[name] = int(number) * 1024
    return found


def _cgroup_limits(root: Path) -> Iterator[int]:
    """The limits of this process's memory groups and of all above them."""
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = ([*line.split(":", 2), "", ""])[:3]
        mounts: tuple[str, ...]
        if controllers == "":
            mounts, file = ("sys/fs/cgroup", "sys/fs/cgroup/unified"), "memory.max"
        elif "memory" in controllers.split(","):
            mounts, file = ("sys/fs/cgroup/memory",), "memory.limit_in_bytes"
        else:
            continue
        # In a container the group may be mounted as the top: then its own folder is not there.
        path = PurePosixPath(group.lstrip("/"))
        for mount in mounts:
            for folder in (path, *path.parents):
                for text in _lines(root / mount / folder / file):
                    if text.isdecimal() and int(text) > 0:
                        yield int(text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
