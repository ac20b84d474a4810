"""The dense feed-forward block."""

from __future__ import annotations

from functools import partial

import mlx.core as mx

from .fused import Fusable
from .layers import Linear


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
        """Shapes: (B, T, dim) -> (B, T, dim)."""
        # With many tokens the joined output would only be memory.
        fused = self.fused() if x.shape[1] == 1 else None
        gate, up = fused.split(x) if fused else (self.gate_proj(x), self.up_proj(x))
        out: mx.array = self.down_proj(swiglu(gate, up))
        return out


@partial(mx.compile, shapeless=True)
def swiglu(gate: mx.array, up: mx.array) -> mx.array:
    """silu(gate) * up in one kernel. Shapes: any, twice the same."""
    return gate * mx.sigmoid(gate) * up
