"""A sparse mixture of experts: each token is worked on by its top-k of E feed-forward blocks.

The experts of a layer are stacked along a first axis, and a gathering matrix product picks
each token's own, so nothing waits for the router's choice to reach the host.
Source: arXiv:2401.04088, section 2.1; mistral-inference, moe.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.config import ModelConfig

from .expert_blocks import arrange, block_rows
from .feed_forward import swiglu
from .linear import multiplies_fast

SORT_FROM = 4
"""Routed tokens an expert, on average, from which sorting them by expert pays."""
EACH_FROM = 2
"""The same, from which a fast BLAS gives all tokens to every expert in less time than each token
to its own: 0.7x with eight texts and two of eight experts. It reads a matrix once for all."""


class SparseMoE(nn.Module):
    """Router and experts. Named as in Mixtral's checkpoints: `gate`, `switch_mlp`."""

    on_route: Callable[[mx.array], None] | None = None
    """Told the experts chosen in each pass, (B, T, k) ints that are not computed yet."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        self._top_k = config.moe.num_experts_per_tok
        self.gate = nn.Linear(config.dim, config.moe.num_experts, bias=False)
        self.switch_mlp = Experts(config.moe.num_experts, config.dim, config.hidden_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """(B, T, dim), or (B, dim) of one token a text -> the same."""
        chosen, weights = self.route(x)
        if self.on_route is not None:
            self.on_route(chosen if x.ndim == 3 else chosen[:, None])
        out = self.switch_mlp(x, chosen)
        return (out * weights[..., None]).sum(axis=-2).astype(x.dtype)

    def route(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Each token's top-k experts and their shares, a float32 softmax over the k.

        Shapes: (B, T, dim) -> (B, T, k) ints, (B, T, k) floats.
        """
        scores = self.gate(x)
        chosen = mx.stop_gradient(mx.argpartition(scores, kth=-self._top_k, axis=-1))
        chosen = chosen[..., -self._top_k :]
        scores = mx.take_along_axis(scores, chosen, axis=-1)
        return chosen, mx.softmax(scores.astype(mx.float32), axis=-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """In what products routed tokens meet their experts: each by itself, unless said here.

    Whoever computes experts in another order has to group alike: other sizes round differently.
    """

    is_sorted: bool
    """Tokens of one expert follow each other."""
    block_rows: int = 0
    """Rows of a product, some of which may be for nothing."""
    is_all_to_each: bool = False
    """Each expert is given all tokens, whoever chose it."""


class Experts(nn.Module):
    """E SwiGLU blocks as three stacks of matrices."""

    def __init__(self, num_experts: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self._num_experts = num_experts
        self.gate_proj = ExpertLinear(num_experts, dim, hidden_dim)
        self.up_proj = ExpertLinear(num_experts, dim, hidden_dim)
        self.down_proj = ExpertLinear(num_experts, hidden_dim, dim)

    def __call__(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Shapes: (B, T, dim), (B, T, k) -> (B, T, k, dim), one result an expert."""
        grouping = self.grouping(chosen.size)
        if grouping.block_rows:
            return self._in_blocks(x, chosen, grouping.block_rows)
        if grouping.is_all_to_each:
            return self._all_to_each(x, chosen)
        if grouping.is_sorted:
            return self._sorted(x, chosen)
        into, out_of = _rows(chosen.shape) if chosen.ndim == 2 else (None, None)
        return self._run(x[..., None, None, :], chosen, False, into, out_of).squeeze(-2)

    def _sorted(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Tokens in the order of their experts, so that each matrix is read once."""
        top_k = chosen.shape[-1]
        flat = chosen.flatten()
        order = mx.argsort(flat)
        rows = x.flatten(0, -2)[order // top_k][:, None]  # (B * T * k, 1, dim)
        out = self._run(rows, flat[order], True).squeeze(-2)
        return out[mx.argsort(order)].reshape(*chosen.shape, -1)

    def grouping(self, n: int) -> Grouping:
        """How n routed tokens come to their experts.

        The CPU's kernel reads a whole matrix for every row that it is given alone, unless that
        is quantized, where unpacking takes the time.
        """
        if isinstance(self.gate_proj, ExpertLinear) and _on_cpu():
            if rows := block_rows(n, self._num_experts):
                return Grouping(is_sorted=True, block_rows=rows)
            if n >= EACH_FROM * self._num_experts and multiplies_fast():
                return Grouping(is_sorted=True, is_all_to_each=True)
        return Grouping(is_sorted=n >= SORT_FROM * self._num_experts)

    def _in_blocks(self, x: mx.array, chosen: mx.array, rows: int) -> mx.array:
        blocks = arrange(chosen.flatten(), self._num_experts, rows)
        of_blocks = x.flatten(0, -2)[blocks.tokens // chosen.shape[-1]]  # (blocks, rows, dim)
        out = self._run(of_blocks, blocks.experts, True).flatten(0, 1)
        return out[blocks.places].reshape(*chosen.shape, -1)

    def _all_to_each(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Every expert's results for all tokens; those that nobody chose are not looked at."""
        rows = x.flatten(0, -2)  # (n, dim)
        out = self._run(rows[None], mx.arange(self._num_experts), True)  # (E, n, dim)
        ids = chosen.flatten(0, -2)
        return out[ids, mx.arange(rows.shape[0])[:, None]].reshape(*chosen.shape, -1)

    def _run(
        self,
        x: mx.array,
        chosen: mx.array,
        is_sorted: bool,
        into: mx.array | None = None,
        out_of: mx.array | None = None,
    ) -> mx.array:
        gate, up = (one(x, chosen, is_sorted, into) for one in (self.gate_proj, self.up_proj))
        return self.down_proj(swiglu(gate, up), chosen, is_sorted, out_of)


class ExpertLinear(nn.Module):
    """E linear maps without bias; each row of the input goes through the chosen one."""

    def __init__(self, num_experts: int, input_dims: int, output_dims: int) -> None:
        super().__init__()
        bound = input_dims**-0.5
        shape = (num_experts, output_dims, input_dims)
        self.weight = mx.random.uniform(low=-bound, high=bound, shape=shape)

    def __call__(
        self,
        x: mx.array,
        chosen: mx.array,
        is_sorted: bool = False,
        rows: mx.array | None = None,
    ) -> mx.array:
        """Shapes: (..., 1, in), experts (...), rows of x (...) -> (..., 1, out).

        rows: which of x goes through each expert; None: MLX makes the list itself, each time.
        """
        weight = self.weight
        if weight.dtype != mx.float32 and _on_cpu():
            # The CPU backend gathers float32 alone. Slow, but `--dtype` means what it says.
            x, weight = x.astype(mx.float32), weight.astype(mx.float32)
        out = mx.gather_mm(
            x, weight.swapaxes(-1, -2), rows, rhs_indices=chosen, sorted_indices=is_sorted
        )
        return out.astype(self.weight.dtype)

    def to_quantized(
        self,
        group_size: int | None = None,
        bits: int | None = None,
        mode: str = "affine",
        **_: Any,
    ) -> QuantizedExpertLinear:
        """Called by `mlx.nn.quantize`."""
        return QuantizedExpertLinear(self.weight, group_size, bits, mode)


class QuantizedExpertLinear(nn.Module):
    """An ExpertLinear whose matrices stay quantized while they are multiplied."""

    def __init__(
        self, weight: mx.array, group_size: int | None, bits: int | None, mode: str
    ) -> None:
        """Shapes: weight (E, out, in), not yet quantized."""
        super().__init__()
        self.group_size, self.bits, self.mode = group_size, bits, mode
        self.weight, self.scales, *biases = mx.quantize(
            weight, group_size=group_size, bits=bits, mode=mode
        )
        self.biases = biases[0] if biases else None
        self.freeze()

    def __call__(
        self,
        x: mx.array,
        chosen: mx.array,
        is_sorted: bool = False,
        rows: mx.array | None = None,
    ) -> mx.array:
        """As an ExpertLinear."""
        return mx.gather_qmm(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            rows,
            rhs_indices=chosen,
            transpose=True,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            sorted_indices=is_sorted,
        )


@lru_cache(maxsize=64)
def _rows(shape: tuple[int, int]) -> tuple[mx.array, mx.array]:
    """Which row each chosen expert gets of B rows, and then of B * k. Shapes: (B, k) each."""
    n, k = shape
    out_of = np.arange(n * k, dtype=np.uint32).reshape(n, k)
    return mx.array(out_of // k), mx.array(out_of)


def _on_cpu() -> bool:
    return bool(mx.default_device() == mx.cpu)
