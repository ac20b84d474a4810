"""The list of all checks. Those of the quick run come first: they cover most kinds of operations,
and a slow machine may have no time for all."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from typing import Any

import mlx.core as mx

from mlx_mistral.backend.device import on_gpu
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import active_backend
from mlx_mistral.memory.chips import Chip, this_chip

from .attention import attention_probes
from .bandwidth import bandwidth_probes
from .check import Probe
from .experts import expert_probes
from .linear import linear_probes
from .machine import machine_probes
from .memory import memory_probes
from .offload import offload_probes
from .replies import reply_probes
from .setup import Setup


def all_probes(card: Mapping[str, Any], *, quick: bool) -> list[Probe]:
    """Return the checks of this machine, of the backend in use and of plain MLX operations.

    Args:
        card: as `machine_card` returns it.
        quick: leave out those that take long.
    """
    free_bytes = card.get("free_bytes")
    plain = Setup.here(Backend(), free_bytes=free_bytes)
    setups = [plain]
    if active_backend().name != plain.backend.name:
        setups.append(Setup.here(active_backend(), free_bytes=free_bytes, is_named=True))
    chip = this_chip(gpu_cores=card.get("gpu_cores")) if on_gpu() else None
    probes = [*machine_probes(card), *model_probes(setups[-1], chip)]
    for setup in reversed(setups):
        probes += operation_probes(setup)
    if quick:
        return [probe for probe in probes if probe.is_quick]
    return sorted(probes, key=lambda probe: not probe.is_quick)


def free_memory() -> None:
    """Return the memory of a finished check to the system."""
    gc.collect()
    mx.clear_cache()


def operation_probes(setup: Setup) -> Iterator[Probe]:
    """Yield the checks of a backend's operations."""
    yield from attention_probes(setup)
    yield from linear_probes(setup)
    yield from expert_probes(setup)


def model_probes(setup: Setup, chip: Chip | None) -> Iterator[Probe]:
    """Yield the checks of whole models, of memory and of speed."""
    yield from reply_probes(setup)
    yield from memory_probes(setup)
    yield from offload_probes(setup)
    yield from bandwidth_probes(setup, chip)
