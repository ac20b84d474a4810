"""The operations of a model as plain MLX operations: what Metal and CUDA run.

Shapes: B batch, T new tokens, S visible tokens, H query heads, K key/value heads, D head_dim,
E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from mlx_mistral.cache.mask import Band, Mask

from .chunked_attention import chunked_attention
from .device import device_kind
from .dispatch import MIN_SORTED_ROWS, SORT_FROM, Dispatch, SortedDispatch
from .pipelining import METAL, PipelineLimits
from .scratch import QUERY_CHUNK, ScratchSizes, scratch_sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryTable:
    """The parameters of rotary embeddings, as `mx.fast.rope` takes them."""

    dims: int
    base: float | None
    """None where `periods` are given."""
    periods: mx.array | None = None
    """Reciprocal angular frequencies. Shapes: (D / 2,) float32."""
    magnitude: float = 1.0
    """Factor of the rotated heads (YaRN)."""


class Rotation:
    """The rotary embedding of T tokens from a position on, shared by all layers.

    Example:
        rotation = active_backend().rotation(table, position, n_new=1, dtype=mx.bfloat16)
        q, k = rotation(q), rotation(k)
    """

    def __init__(self, table: RotaryTable, position: mx.array | int) -> None:
        """Shapes: position () or (B,) of the first token."""
        self._table, self._position = table, position

    def __call__(self, x: mx.array, skip: int = 0) -> mx.array:
        """Rotate the heads of the tokens after the first `skip`. Shapes: (B, H, T, D) -> same."""
        table = self._table
        if table.magnitude != 1.0:
            x = x * table.magnitude
        return mx.fast.rope(
            x,
            table.dims,
            traditional=False,
            base=table.base,
            scale=1.0,
            offset=self._position + skip if skip else self._position,
            freqs=table.periods,
        )


class Backend:
    """Plain MLX operations.

    Example:
        ops = active_backend()
        out = ops.attention(q, k, v, scale=head_dim**-0.5, mask="causal")
    """

    name: Literal["mlx", "cpu"] = "mlx"

    @property
    def scratch(self) -> ScratchSizes:
        """Temporary memory of the operations on the device in use."""
        return scratch_sizes(self.name, device_kind())

    @property
    def pipelining(self) -> PipelineLimits | None:
        """When a decoding step may be submitted before the one before it is done; None: always."""
        return METAL

    def attention(
        self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask
    ) -> mx.array:
        """Scaled dot-product attention; the K heads of keys and values are shared among H.

        Shapes: q (B, H, T, D), k and v (B, K, S, D) -> (B, H, T, D).
        """
        if isinstance(mask, Band):
            return chunked_attention(
                q, k, v, scale=scale, window=mask.window, query_chunk=QUERY_CHUNK
            )
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask)

    def rms_norm(self, x: mx.array, weight: mx.array, eps: float) -> mx.array:
        """x / rms(x) * weight. Shapes: (..., dim), (dim,) -> (..., dim). Source: 1910.07467."""
        return mx.fast.rms_norm(x, weight, eps)

    def rotation(
        self, table: RotaryTable, position: mx.array | int, *, n_new: int, dtype: mx.Dtype
    ) -> Rotation:
        """Return the rotary embedding of n_new tokens. Shapes: position () or (B,)."""
        return Rotation(table, position)

    def quantized_linear(
        self,
        x: mx.array,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        *,
        group_size: int,
        bits: int,
        mode: str,
    ) -> mx.array:
        """x @ W.T with W quantized. Shapes: (..., in) -> (..., out)."""
        return mx.quantized_matmul(
            x,
            weight,
            scales=scales,
            biases=biases,
            transpose=True,
            group_size=group_size,
            bits=bits,
            mode=mode,
        )

    def dispatch(self, n_routed: int, num_experts: int, *, is_quantized: bool) -> Dispatch:
        """Return how n routed rows (tokens x top-k) are grouped into products."""
        is_sorted = n_routed >= max(SORT_FROM * num_experts, MIN_SORTED_ROWS)
        return SortedDispatch() if is_sorted else Dispatch()

    def expert_matmul(
        self,
        x: mx.array,
        weight: mx.array,
        expert_ids: mx.array,
        *,
        is_sorted: bool,
        row_ids: mx.array | None = None,
    ) -> mx.array:
        """Multiply rows by the matrix of an expert each.

        Args:
            row_ids: the rows of x that each product reads; None: MLX computes the list.
        Shapes: x (..., R, in), weight (E, out, in), expert_ids (...) -> (..., R, out).
        """
        return mx.gather_mm(
            x, weight.swapaxes(-1, -2), row_ids, rhs_indices=expert_ids, sorted_indices=is_sorted
        )

    def quantized_expert_matmul(
        self,
        x: mx.array,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None,
        expert_ids: mx.array,
        *,
        group_size: int | None,
        bits: int | None,
        mode: str,
        is_sorted: bool,
        row_ids: mx.array | None = None,
    ) -> mx.array:
        """The same with quantized matrices."""
        return mx.gather_qmm(
            x,
            weight,
            scales,
            biases,
            row_ids,
            rhs_indices=expert_ids,
            transpose=True,
            group_size=group_size,
            bits=bits,
            mode=mode,
            sorted_indices=is_sorted,
        )

    def can_compile(self) -> bool:
        """Return whether a compiled function is traced once and replayed."""
        return not _compile_is_disabled()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `mx.compile` of a function over arrays of fixed shapes."""
        compiled: Callable[..., Any] = mx.compile(function)
        return compiled


def _compile_is_disabled() -> bool:
    """Return whether `mx.disable_compile` or a missing C++ compiler makes MLX trace each call.

    MLX has no query for it, so a function is called twice and its traces are counted.
    """
    n_traces = 0

    def probe(x: mx.array) -> mx.array:
        nonlocal n_traces
        n_traces += 1
        return x

    compiled = mx.compile(probe)
    for _ in range(2):
        compiled(mx.array(0))
    return n_traces == 2
