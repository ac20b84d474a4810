"""What the matrices of a layer are multiplied with, kept while a text goes through it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

LEAN_ROWS = 16
"""Rows of all experts together that join an expert's own."""


@dataclass(slots=True)
class Inputs:
    """Rows that a matrix was multiplied with, and for a stack each row's expert."""

    rows: list[mx.array] = field(default_factory=list)
    experts: list[mx.array] = field(default_factory=list)

    def by_expert(self) -> list[mx.array]:
        """The rows of each expert in turn; of a single matrix, all. Shapes: (n, columns)."""
        rows = mx.concatenate(self.rows)
        if not self.experts:
            return [rows]
        experts = np.array(mx.concatenate(self.experts))
        return [rows[mx.array(np.flatnonzero(experts == e))] for e in range(experts.max() + 1)]


def mean_squares(by_expert: Sequence[mx.array], n_experts: int | None) -> mx.array:
    """How large each column of the inputs is; experts with few rows lean on the others'.

    Shapes: (n, columns) for each expert that has rows -> (columns,), or (E, columns).
    """
    sums = [mx.square(rows.astype(mx.float32)).sum(0) for rows in by_expert]
    overall = sum(sums, start=mx.zeros_like(sums[0])) / sum(rows.shape[0] for rows in by_expert)
    if n_experts is None:
        return overall
    counts = [rows.shape[0] for rows in by_expert]
    unseen = n_experts - len(by_expert)
    means = [
        (total + LEAN_ROWS * overall) / (n + LEAN_ROWS)
        for total, n in zip(sums, counts, strict=True)
    ]
    return mx.stack([*means, *[overall] * unseen])


class Recorder(nn.Module):
    """Stands for a linear module, and keeps what goes into it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.inputs = Inputs()

    def __call__(self, x: mx.array, *routing: Any) -> mx.array:
        """Shapes: as the module's own: (..., in), or (..., 1, in) and experts (...)."""
        rows = x
        if routing:
            chosen: mx.array = routing[0]
            rows = mx.broadcast_to(x.squeeze(-2), (*chosen.shape, x.shape[-1]))
            self.inputs.experts.append(chosen.flatten())
        self.inputs.rows.append(rows.reshape(-1, x.shape[-1]))
        out: mx.array = self.module(x, *routing)
        return out


@contextmanager
def recorded(block: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Inputs]]:
    """Inside, the block's modules at these paths keep their inputs."""
    modules = {path: module_at(block, path) for path in paths}
    recorders = {path: Recorder(module) for path, module in modules.items()}
    for path, recorder in recorders.items():
        _replace(block, path, recorder)
    try:
        yield {path: recorder.inputs for path, recorder in recorders.items()}
    finally:
        for path, module in modules.items():
            _replace(block, path, module)


def module_at(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path."""
    module = root
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module_at(root, parent) if parent else root, name, module)
