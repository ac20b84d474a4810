"""A sparse mixture of experts: the router sends each token to its top-k of E feed-forward blocks.

The experts of a layer are stacked along a first axis, and a gathering matrix product picks each
token's own, so no step waits for the router's choice to reach the host.
Source: arXiv:2401.04088, section 2.1; mistral-inference, moe.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_mistral.backend.dispatch import Dispatch, RowIds
from mlx_mistral.backend.select import active_backend
from mlx_mistral.config import ModelConfig

from .feed_forward import swiglu


class SparseMoE(nn.Module):
    """Router and experts. Named as in Mixtral's checkpoints: `gate`, `switch_mlp`."""

    on_route: Callable[[mx.array], None] | None = None
    """Called with the experts chosen in each pass, (B, T, k) ints that are not computed yet."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        assert config.moe is not None
        self._top_k = config.moe.num_experts_per_tok
        self.gate = nn.Linear(config.dim, config.moe.num_experts, bias=False)
        self.switch_mlp = Experts(config.moe.num_experts, config.dim, config.hidden_dim)

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (B, T, dim) -> (B, T, dim)."""
        expert_ids, weights = self.route(x)
        if self.on_route is not None:
            self.on_route(expert_ids)
        out = self.switch_mlp(x, expert_ids)
        return (out * weights[..., None]).sum(axis=-2).astype(x.dtype)

    def route(self, x: mx.array) -> tuple[mx.array, mx.array]:
        """Choose each token's top-k experts and their weights, a float32 softmax over the k.

        Shapes: (B, T, dim) -> (B, T, k) ints, (B, T, k) floats.
        """
        scores = self.gate(x)
        expert_ids = mx.stop_gradient(mx.argpartition(scores, kth=-self._top_k, axis=-1))
        expert_ids = expert_ids[..., -self._top_k :]
        scores = mx.take_along_axis(scores, expert_ids, axis=-1)
        return expert_ids, mx.softmax(scores.astype(mx.float32), axis=-1)


class Experts(nn.Module):
    """E SwiGLU blocks as three stacks of matrices."""

    def __init__(self, num_experts: int, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self._num_experts = num_experts
        self.gate_proj = ExpertLinear(num_experts, dim, hidden_dim)
        self.up_proj = ExpertLinear(num_experts, dim, hidden_dim)
        self.down_proj = ExpertLinear(num_experts, hidden_dim, dim)

    def __call__(self, x: mx.array, expert_ids: mx.array) -> mx.array:
        """Shapes: (B, T, dim), (B, T, k) -> (B, T, k, dim), one result per expert."""
        return self.dispatch(expert_ids.size).run(x, expert_ids, self.run)

    def dispatch(self, n_routed: int) -> Dispatch:
        """Return how n routed rows are grouped into products."""
        is_quantized = not isinstance(self.gate_proj, ExpertLinear)
        return active_backend().dispatch(n_routed, self._num_experts, is_quantized=is_quantized)

    def run(
        self, x: mx.array, expert_ids: mx.array, is_sorted: bool, rows: RowIds | None = None
    ) -> mx.array:
        """Shapes: rows (..., R, dim), expert ids (...) -> (..., R, dim)."""
        inputs, hidden = rows or (None, None)
        gate = self.gate_proj(x, expert_ids, is_sorted, inputs)
        up = self.up_proj(x, expert_ids, is_sorted, inputs)
        return self.down_proj(swiglu(gate, up), expert_ids, is_sorted, hidden)


class ExpertLinear(nn.Module):
    """E linear maps without bias; rows of the input go through the expert of their id."""

    def __init__(self, num_experts: int, input_dims: int, output_dims: int) -> None:
        super().__init__()
        bound = input_dims**-0.5
        shape = (num_experts, output_dims, input_dims)
        self.weight = mx.random.uniform(low=-bound, high=bound, shape=shape)

    def __call__(
        self,
        x: mx.array,
        expert_ids: mx.array,
        is_sorted: bool = False,
        row_ids: mx.array | None = None,
    ) -> mx.array:
        """Shapes: (..., R, in), (...) -> (..., R, out)."""
        return active_backend().expert_matmul(
            x, self.weight, expert_ids, is_sorted=is_sorted, row_ids=row_ids
        )

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
        expert_ids: mx.array,
        is_sorted: bool = False,
        row_ids: mx.array | None = None,
    ) -> mx.array:
        """Shapes: (..., R, in), (...) -> (..., R, out)."""
        return active_backend().quantized_expert_matmul(
            x,
            self["weight"],
            self["scales"],
            self.get("biases"),
            expert_ids,
            group_size=self.group_size,
            bits=self.bits,
            mode=self.mode,
            is_sorted=is_sorted,
            row_ids=row_ids,
        )
