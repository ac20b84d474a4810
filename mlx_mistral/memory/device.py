"""Where a model would be computed: what decides how it is held, whether it fits, how fast it is."""

from __future__ import annotations

from dataclasses import dataclass

from mlx_mistral.backend.device import on_gpu
from mlx_mistral.backend.scratch import METAL, ScratchSizes
from mlx_mistral.backend.select import active_backend
from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
from mlx_mistral.errors import MemoryBudgetError

from .chips import Chip, this_chip
from .machine import Machine, this_machine_now

MAC_DTYPE = "bfloat16"
"""Of activations on a Mac's GPU, unless told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """This machine, or another that is asked about."""

    dtype: str
    """Of activations, by its name in MLX."""
    scratch: ScratchSizes
    """Temporary memory of the operations."""
    machine: Machine | None
    """None where the system does not tell its memory."""
    chip: Chip | None
    """None where no expectation of speed can be given: elsewhere than on an Apple GPU."""

    @classmethod
    def here(cls, *, dtype: str | None = None, gpu_cores: int | None = None) -> Device:
        """Return this machine, as MLX would use it. gpu_cores: as in `this_chip`."""
        try:
            machine = this_machine_now()
        except MemoryBudgetError:
            machine = None
        return cls(
            dtype=dtype_name(resolve_dtype(dtype)),
            scratch=active_backend().scratch,
            machine=machine,
            chip=this_chip(gpu_cores=gpu_cores) if on_gpu() else None,
        )

    @classmethod
    def mac(cls, chip: Chip, *, dtype: str | None = None) -> Device:
        """A Mac of which only the chip is known."""
        return cls(dtype=dtype or MAC_DTYPE, scratch=METAL, machine=None, chip=chip)
