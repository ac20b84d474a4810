"""How far a matrix's outputs move, on a text's own inputs, when it is stored in fewer bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.config import QuantParams

OUTPUT_BYTES = 128 * 2**20
"""Output errors that are held at once, in float32."""
CHUNK_WEIGHTS = 2**26
"""Weights of a matrix that are rounded at once."""


def rounded(weight: mx.array, params: QuantParams, stored: mx.Dtype) -> mx.array:
    """The weights that a reader of the file has, in the dtype of those given.

    `stored` is the dtype of what is quantized, thus of scales and biases.
    Shapes: (..., rows, columns) -> the same.
    """
    kind: dict[str, Any] = {
        "group_size": params.group_size, "bits": params.bits, "mode": params.mode
    }  # fmt: skip
    packed, scales, *biases = mx.quantize(weight.astype(stored), **kind)
    if not biases:
        return mx.dequantize(packed, scales, **kind).astype(weight.dtype)
    scales, bias = scales.astype(weight.dtype), biases[0].astype(weight.dtype)
    return mx.dequantize(packed, scales, bias, **kind)


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


class Moved:
    """How far errors of a matrix move its outputs on given inputs.

    Of more inputs than columns, their products with each other say as much in less.
    Shapes: inputs (n, columns).
    """

    def __init__(self, inputs: mx.array) -> None:
        self._has_products = inputs.shape[0] > inputs.shape[1]
        self._inputs = inputs
        if self._has_products:
            wide = inputs.astype(mx.float32)
            self._inputs = wide.T @ wide
            mx.eval(self._inputs)

    def squares(self, error: mx.array) -> float:
        """The sum over inputs x of |error x|^2. Shapes: (rows, columns)."""
        if self._has_products:
            error = error.astype(mx.float32)
            return max(0.0, number(((error @ self._inputs) * error).sum()))
        total, size = 0.0, max(1, OUTPUT_BYTES // (4 * error.shape[0]))
        for start in range(0, self._inputs.shape[0], size):
            moved = (self._inputs[start : start + size] @ error.T).astype(mx.float32)
            total += number(mx.square(moved).sum())
        return total


def output_error(
    weight: mx.array, by_expert: Sequence[Moved], params: QuantParams, stored: mx.Dtype
) -> float:
    """The sum over input rows x of |(W - Wq) x|^2, each expert's on its own rows.

    Shapes: weight (rows, columns) or (E, rows, columns).
    """
    stack = weight if weight.ndim == 3 else weight[None]
    height = max(1, CHUNK_WEIGHTS // weight.shape[-1])
    total = 0.0
    for expert, moved in enumerate(by_expert):
        for first in range(0, stack.shape[1], height):
            part = stack[expert, first : first + height]
            total += moved.squares(part - rounded(part, params, stored))
    return total


def lookup_error(table: mx.array, tokens: mx.array, params: QuantParams, stored: mx.Dtype) -> float:
    """The same for a table of embeddings, from which each token takes its row."""
    rows = table[tokens.flatten()]
    error = (rows - rounded(rows, params, stored)).astype(mx.float32)
    return number(mx.square(error).sum())


def number(scalar: mx.array) -> float:
    """Waits for an array of one number."""
    return float(np.array(scalar))
