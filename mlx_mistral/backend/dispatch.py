"""Dispatch of tokens to the experts of a mixture: which rows share a matrix product.

A router sends each of N tokens to k experts, which makes n = N * k routed rows. Resident experts
(`run`) and experts read from disk (`run_expert`) use the same dispatch, so that both form products
of the same shape and round alike.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol

import mlx.core as mx
import numpy as np


class RunExperts(Protocol):
    """Three products of experts with SwiGLU between them.

    Args:
        x: rows (..., R, dim).
        expert_ids: the expert of each product (...).
        is_sorted: products of one expert follow each other.
        rows: where the ids of the products' rows are known: of x, and of what the first products
            return. MLX computes such a list for each product where it is not given.
    Shapes: -> (..., R, dim).
    """

    def __call__(
        self, x: mx.array, expert_ids: mx.array, is_sorted: bool, rows: RowIds | None = None
    ) -> mx.array: ...


class RowIds(NamedTuple):
    """The row that each product reads. Shapes: those of the expert ids."""

    inputs: mx.array
    hidden: mx.array


SORT_FROM = 4
"""Routed rows per expert from which rows are sorted by expert, so that each matrix is read once."""
MIN_SORTED_ROWS = 16
"""The smallest sorted product on Metal. Its kernel of quantized matrices reads sorted rows together
from 16 rows and 4 rows per expert on; fewer would select another kernel, whose sums round
differently. Source: mlx 0.32.2, metal/quantized.cpp, GatherQMM::eval_gpu; GatherMM::eval_gpu takes
one kernel for any number of sorted rows."""


class Dispatch:
    """Each routed row is a product of its own, in the order of the tokens.

    Example:
        dispatch = active_backend().dispatch(expert_ids.size, num_experts, is_quantized=True)
        out = dispatch.run(x, expert_ids, experts)  # (B, T, k, dim)
    """

    is_sorted = False
    """Rows of one expert follow each other."""

    def run(self, x: mx.array, expert_ids: mx.array, experts: RunExperts) -> mx.array:
        """Shapes: (B, T, dim), (B, T, k) -> (B, T, k, dim), one result per expert."""
        rows = _row_ids(*expert_ids.shape) if x.shape[1] == 1 else None
        return experts(x[..., None, None, :], expert_ids, False, rows).squeeze(-2)

    def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
        """Return one expert's results for some tokens.

        Args:
            token_rows: rows of x (n,) that the router sent to this expert.
            expert: a stack of one expert, whose id is 0.
        Shapes: (N, dim) -> (n, dim).
        """
        rows = (x if x.shape[0] == 1 else x[mx.array(token_rows)])[:, None]
        return run_one_expert(rows, expert, False)


class SortedDispatch(Dispatch):
    """Each routed row is a product of its own, in the order of the experts."""

    is_sorted = True

    def __init__(self, min_rows: int = MIN_SORTED_ROWS) -> None:
        """min_rows: of one expert's product; fewer are padded."""
        self._min_rows = min_rows

    def run(self, x: mx.array, expert_ids: mx.array, experts: RunExperts) -> mx.array:
        top_k = expert_ids.shape[-1]
        flat_ids = expert_ids.flatten()
        order = mx.argsort(flat_ids)
        rows = x.flatten(0, -2)[order // top_k][:, None]  # (n, 1, dim)
        out = experts(rows, flat_ids[order], True).squeeze(-2)
        return out[mx.argsort(order)].reshape(*expert_ids.shape, -1)

    def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
        n = len(token_rows)
        padded = np.resize(token_rows, max(n, self._min_rows))
        return run_one_expert(x[mx.array(padded)][:, None], expert, True)[:n]


@lru_cache(maxsize=64)
def _row_ids(batch: int, n_tokens: int, top_k: int) -> RowIds:
    """Return the rows of decoding steps. Shapes: (B, T, k) each."""
    hidden = np.arange(batch * n_tokens * top_k, dtype=np.uint32).reshape(batch, n_tokens, top_k)
    return RowIds(inputs=mx.array(hidden // top_k), hidden=mx.array(hidden))


def run_one_expert(rows: mx.array, expert: RunExperts, is_sorted: bool) -> mx.array:
    """Run products of rows through a stack of one expert. Shapes: (G, R, dim) -> (G * R, dim)."""
    expert_ids = mx.zeros((rows.shape[0],), mx.uint32)
    return expert(rows, expert_ids, is_sorted).flatten(0, 1)
