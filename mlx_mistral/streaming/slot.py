"""Memory for one expert, written by readers and read by the matrix products, never copied."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import numpy.typing as npt

from mlx_mistral.backend.dispatch import RowIds
from mlx_mistral.model.feed_forward import swiglu

Key = tuple[int, int]
"""Layer, expert."""
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One array of an expert: `gate_proj`'s `scales`, say. Shapes: (rows, columns)."""

    projection: str
    name: str
    shape: tuple[int, ...]
    dtype: mx.Dtype

    @property
    def nbytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.dtype.size


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertForm:
    """What all experts of a layer have in common; slots of equal forms serve any such layer."""

    fields: tuple[Field, ...]
    quantization: tuple[tuple[Any, ...], ...]
    """Group size, bits and mode of each projection."""
    templates: Mapping[str, nn.Module] = field(compare=False)
    """By projection: the module whose arrays a slot's own take the place of."""

    @property
    def nbytes(self) -> int:
        return sum(one.nbytes for one in self.fields)


class Slot:
    """Room for one expert, with the modules that multiply by what it holds.

    The arrays belong to MLX and are written through NumPy views of them, by readers. So a slot
    may only be given to another expert when nothing that reads it is left to be computed; see
    `settle`.
    """

    def __init__(self, form: ExpertForm) -> None:
        self.form = form
        self.key: Key | None = None
        self.jobs: list[Future[None]] = []
        self.pinned = False
        self._fences: list[mx.array] = []
        self.rows: list[npt.NDArray[Any]] = []
        """The bits of each field, writable. Shapes: those of the fields."""
        self._modules = {name: copy.copy(one) for name, one in form.templates.items()}
        for one in form.fields:
            bits = mx.zeros((1, *one.shape), _UNSIGNED[one.dtype.size])
            mx.eval(bits)
            array = bits if bits.dtype == one.dtype else bits.view(one.dtype)
            mx.eval(array)
            self._modules[one.projection][one.name] = array
            self.rows.append(np.array(bits, copy=False)[0])

    @property
    def is_complete(self) -> bool:
        return all(job.done() for job in self.jobs)

    @property
    def has_failed(self) -> bool:
        """Whether something of it could not be read."""
        return any(job.done() and (job.cancelled() or job.exception()) for job in self.jobs)

    def is_read_until(self, fence: mx.array) -> None:
        """What reads this slot is computed when `fence` is."""
        self.settle()  # of the passes before; the router's choice has waited for them
        self._fences.append(fence)

    def settle(self) -> bool:
        """Waits until nobody reads this slot; False: somebody may, whom to wait for is no way."""
        try:
            mx.eval(self._fences)
        except RuntimeError:
            # Built by another thread, which left them uncomputed.
            return False
        self._fences.clear()
        return True

    def __call__(
        self, x: mx.array, expert_ids: mx.array, is_sorted: bool, rows: RowIds | None = None
    ) -> mx.array:
        """The expert as a stack of one. Shapes: (n, rows, dim), zeros (n,) -> (n, rows, dim)."""
        module = self._modules
        gate = module["gate_proj"](x, expert_ids, is_sorted)
        up = module["up_proj"](x, expert_ids, is_sorted)
        out: mx.array = module["down_proj"](swiglu(gate, up), expert_ids, is_sorted)
        return out
