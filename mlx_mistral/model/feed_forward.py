"""The dense feed-forward block."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)).

    Source: arXiv:2002.05202.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=False)

    def __call__(self, x: mx.array) -> mx.array:
        """(..., dim) -> (..., dim)."""
        return self.down_proj(nn.silu(self.gate_proj(x)) * self.up_proj(x))
