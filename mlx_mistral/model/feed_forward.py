"""The dense feed-forward block."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from .fused import Fusable, is_one_token
from .linear import Linear


class FeedForward(Fusable):
    """SwiGLU: down(silu(gate(x)) * up(x)).

    Source: arXiv:2002.05202.
    """

    fusable = ("gate_proj", "up_proj")

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = Linear(dim, hidden_dim, bias=False)
        self.up_proj = Linear(dim, hidden_dim, bias=False)
        self.down_proj = Linear(hidden_dim, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., dim) -> (..., dim)."""
        # With many tokens the joined output would only be memory.
        fused = self.fused() if is_one_token(x) else None
        gate, up = fused.split(x) if fused else (self.gate_proj(x), self.up_proj(x))
        out: mx.array = self.down_proj(swiglu(gate, up))
        return out


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up in one kernel. Shapes: any, twice the same."""
    return gate * mx.sigmoid(gate) * up
