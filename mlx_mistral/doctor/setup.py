"""The conditions of a run: backend, dtype, and how much work and memory a check may take."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from mlx_mistral.backend.device import default_dtype, on_gpu
from mlx_mistral.backend.ops import Backend

MAX_STACK_BYTES, SLOW_STACK_BYTES = 2 << 30, 1 << 30
"""Largest stack of experts; the second on a device that is slow to fill it."""
N_EXPERTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """The parameters that all checks of operations share.

    Example:
        setup = Setup.here(Backend(), free_bytes=8 << 30)
        checks = list(run_probes(list(attention_probes(setup)), seconds=50))
    """

    backend: Backend
    dtype: mx.Dtype
    free_bytes: int | None = None
    """Memory that is free now; None: unknown."""
    is_fast: bool = True
    """Long prompts are checked in every quantized mode; MLX's CPU device is slow."""
    is_named: bool = False
    """Names of checks include the backend's."""
    head_dim: int = 128
    n_heads: int = 32
    n_kv_heads: int = 8
    dim: int = 4096
    hidden_dim: int = 14336

    @classmethod
    def here(
        cls, backend: Backend, *, free_bytes: int | None = None, is_named: bool = False
    ) -> Setup:
        """Return the setup of this machine, with the shapes of Mistral 7B and Mixtral 8x7B."""
        return cls(
            backend=backend,
            dtype=default_dtype(),
            free_bytes=free_bytes,
            is_fast=on_gpu(),
            is_named=is_named,
        )

    @property
    def kv_dim(self) -> int:
        """Width of the projection to keys."""
        return self.n_kv_heads * self.head_dim

    def name(self, text: str) -> str:
        """Return the name of a check."""
        return f"{text}, {self.backend.name} backend" if self.is_named else text

    def n_experts(self, expert_bytes: int) -> int:
        """Return how many experts of a given size fit in a quarter of the free memory, 2 to 8."""
        limit = MAX_STACK_BYTES if self.is_fast else SLOW_STACK_BYTES
        if self.free_bytes is not None:
            limit = min(limit, self.free_bytes // 4)
        return max(2, min(N_EXPERTS, limit // expert_bytes))


def token_count(n: int) -> str:
    """Return a number of tokens in words."""
    return "1 token" if n == 1 else f"{n} tokens"
