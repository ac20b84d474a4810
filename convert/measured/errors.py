"""How far a matrix's outputs move, on a text's own inputs, when it is stored in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.config import QuantParams

OUTPUT_BYTES = 128 * 2**20
"""Output errors that are held at once, in float32."""


def rounded(weight: mx.array, params: QuantParams, stored: mx.Dtype) -> mx.array:
    """The weights that a reader of the file has, in the dtype of those given.

    `stored` is the dtype of what is quantized, thus of scales and biases.
    Shapes: (..., rows, columns) -> the same.
    """
    kind: dict[str, Any] = {
        "group_size": params.group_size, "bits": params.bits, "mode": params.mode
    }  # fmt: skip
    packed, scales, *biases = mx.quantize(weight.astype(stored), **kind)
    if biases:
        scales = scales.astype(weight.dtype)
        biases = [biases[0].astype(weight.dtype)]
    return mx.dequantize(packed, scales, *biases, **kind).astype(weight.dtype)


@dataclass(slots=True)
class Inputs:
    """What a matrix was multiplied with: rows, and for a stack each row's expert."""

    rows: list[mx.array] = field(default_factory=list)
    experts: list[mx.array] = field(default_factory=list)

    def by_expert(self) -> list[mx.array]:
        """The rows of each expert in turn; of a single matrix, all. Shapes: (n, columns)."""
        rows = mx.concatenate(self.rows)
        if not self.experts:
            return [rows]
        experts = np.array(mx.concatenate(self.experts))
        return [rows[mx.array(np.flatnonzero(experts == e))] for e in range(experts.max() + 1)]


class Recorder(nn.Module):
    """Stands for a linear module, and keeps what goes into it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self._inputs = Inputs()

    @property
    def inputs(self) -> Inputs:
        return self._inputs

    def __call__(self, x: mx.array, *routing: Any) -> mx.array:
        if routing:
            chosen: mx.array = routing[0]
            rows = mx.broadcast_to(x.squeeze(-2), (*chosen.shape, x.shape[-1]))
            self._inputs.experts.append(chosen.flatten())
        else:
            rows = x
        self._inputs.rows.append(rows.reshape(-1, x.shape[-1]))
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


@contextmanager
def stored_as(module: nn.Module, params: QuantParams, stored: mx.Dtype) -> Iterator[None]:
    """Inside, the module has the weights that a file in this format gives it."""
    exact = module.weight
    module.weight = rounded(exact, params, stored)
    mx.eval(module.weight)
    try:
        yield
    finally:
        module.weight = exact


def output_error(
    weight: mx.array, by_expert: Sequence[mx.array], params: QuantParams, stored: mx.Dtype
) -> float:
    """The sum over rows x of |(W - Wq) x|^2, experts each on their own rows.

    Shapes: weight (rows, columns) or (E, rows, columns); inputs (n, columns) each.
    """
    stack = weight if weight.ndim == 3 else weight[None]
    total = 0.0
    for number, inputs in enumerate(by_expert):
        error = (stack[number] - rounded(stack[number], params, stored)).T
        size = max(1, OUTPUT_BYTES // (4 * error.shape[1]))
        for start in range(0, inputs.shape[0], size):
            out = (inputs[start : start + size] @ error).astype(mx.float32)
            total += mx.square(out).sum().item()
    return total


def lookup_error(
    table: mx.array, tokens: mx.array, params: QuantParams, stored: mx.Dtype
) -> float:
    """The same for a table of embeddings, from which each token takes its row."""
    rows = table[tokens.flatten()]
    error = (rows - rounded(rows, params, stored)).astype(mx.float32)
    return mx.square(error).sum().item()


def module_at(root: nn.Module, path: str) -> nn.Module:
    """The module at a dotted path."""
    module = root
    for part in path.split("."):
        module = getattr(module, part)
    return module


def _replace(root: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(module_at(root, parent) if parent else root, name, module)
