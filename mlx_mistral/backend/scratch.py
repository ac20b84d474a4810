"""Temporary memory of a backend's operations, for the memory plan. No MLX is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

MIN_ROWS = 4
"""Rows of the input from which the CPU backend unpacks a quantized matrix once for all."""
CHUNK_WEIGHTS, MAX_CHUNKS = 1 << 17, 64
"""Weights that the CPU backend unpacks at a time, so that they stay near the processor; more where
a matrix would make too many chunks."""
CPU_QUERY_CHUNK = 128
"""Queries of a chunk of attention on the CPU backend: its scores fit the processor's cache."""
QUERY_CHUNK = 512
"""The same elsewhere, under a window: few launches, and few keys that a chunk does not see."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchSizes:
    """What a backend's operations hold beside their inputs and outputs on a kind of device."""

    query_chunk: int
    """Queries of a chunk of attention under a window."""
    chunks_causal: bool
    """Whether causal attention without a window comes in such chunks too."""
    has_fused_attention: bool
    """Whether the device has kernels that write no scores."""
    unpacks_linear: bool
    """Whether a quantized matrix is unpacked for many rows in float32."""
    widens_experts: bool
    """Whether unquantized experts of 16 bits are converted to float32 for each use."""

    def for_experts(self, *, is_quantized: bool) -> ScratchSizes:
        """Return the sizes for a model whose experts are quantized or not."""
        return replace(self, widens_experts=self.widens_experts and not is_quantized)


CPU = ScratchSizes(
    query_chunk=CPU_QUERY_CHUNK,
    chunks_causal=True,
    has_fused_attention=False,
    unpacks_linear=True,
    widens_experts=True,
)
UNFUSED = ScratchSizes(
    query_chunk=QUERY_CHUNK,
    chunks_causal=False,
    has_fused_attention=False,
    unpacks_linear=False,
    widens_experts=False,
)
METAL = ScratchSizes(
    query_chunk=QUERY_CHUNK,
    chunks_causal=False,
    has_fused_attention=True,
    unpacks_linear=False,
    widens_experts=False,
)


def scratch_sizes(
    backend: Literal["mlx", "cpu"], device: Literal["metal", "cuda", "cpu"]
) -> ScratchSizes:
    """Return the sizes of a backend on a kind of device."""
    if backend == "cpu":
        return CPU
    return METAL if device == "metal" else UNFUSED
