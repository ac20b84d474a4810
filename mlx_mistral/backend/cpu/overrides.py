"""The backend of MLX's CPU device: plain operations, but for those that are slow or missing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from mlx_mistral.backend.chunked_attention import chunked_attention
from mlx_mistral.backend.dispatch import Dispatch, SortedDispatch
from mlx_mistral.backend.ops import Backend, RotaryTable, Rotation
from mlx_mistral.backend.pipelining import PipelineLimits
from mlx_mistral.backend.scratch import CPU_QUERY_CHUNK
from mlx_mistral.cache.mask import Band, Mask

from . import blas, compile_mode
from .attention import decode_attention
from .dispatch import DENSE_FROM, DenseDispatch, TiledDispatch, tile_rows
from .linear import MIN_ROWS, unpacked_linear
from .rotation import MatrixRotation


class CPUBackend(Backend):
    """Overrides for MLX's CPU device.

    Example:
        with use_backend("cpu"):
            logits = model(tokens, cache)
    """

    name = "cpu"

    @property
    def pipelining(self) -> PipelineLimits | None:
        """None: on the CPU device MLX lets 10 tasks of 10 operations wait at most.

        Source: mlx 0.32.2, transforms.cpp, MAX_ACTIVE_TASKS; cpu/encoder.h, DISPATCHES_PER_TASK.
        """
        return None

    def attention(
        self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask
    ) -> mx.array:
        if q.shape[2] == 1 and (mask is None or isinstance(mask, mx.array)):
            return decode_attention(q, k, v, scale=scale, mask=mask)
        if isinstance(mask, Band) or mask == "causal":
            window = mask.window if isinstance(mask, Band) else None
            return chunked_attention(
                q, k, v, scale=scale, window=window, query_chunk=CPU_QUERY_CHUNK
            )
        return super().attention(q, k, v, scale=scale, mask=mask)

    def rms_norm(self, x: mx.array, weight: mx.array, eps: float) -> mx.array:
        """One row's mean square is a product, with eps and 1 / dim in it: four steps, not seven."""
        if x.size > x.shape[-1] or x.dtype != mx.float32:
            return super().rms_norm(x, weight, eps)
        row = x.reshape(1, -1)
        mean_square = mx.addmm(mx.array(eps), row, row.T, alpha=1 / x.size)
        return x * mx.rsqrt(mean_square) * weight

    def rotation(
        self, table: RotaryTable, position: mx.array | int, *, n_new: int, dtype: mx.Dtype
    ) -> Rotation:
        if n_new > 1:
            return super().rotation(table, position, n_new=n_new, dtype=dtype)
        return MatrixRotation(table, position, dtype)

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
        is_long = x.size >= MIN_ROWS * x.shape[-1] and x.dtype == scales.dtype == mx.float32
        if is_long and biases is not None and mode == "affine" and blas.is_preloaded():
            return unpacked_linear(x, weight, scales, biases, group_size=group_size, bits=bits)
        return super().quantized_linear(
            x, weight, scales, biases, group_size=group_size, bits=bits, mode=mode
        )

    def dispatch(self, n_routed: int, num_experts: int, *, is_quantized: bool) -> Dispatch:
        """MLX's CPU kernel reads a whole matrix for each row, which costs where it is not packed.

        A quantized matrix is unpacked for each row, and that takes the time.
        """
        if not is_quantized:
            if rows := tile_rows(n_routed, num_experts):
                return TiledDispatch(num_experts, rows)
            if n_routed >= DENSE_FROM * num_experts and blas.is_preloaded():
                return DenseDispatch(num_experts)
        plain = super().dispatch(n_routed, num_experts, is_quantized=is_quantized)
        return SortedDispatch(min_rows=1) if plain.is_sorted else plain

    def expert_matmul(
        self,
        x: mx.array,
        weight: mx.array,
        expert_ids: mx.array,
        *,
        is_sorted: bool,
        row_ids: mx.array | None = None,
    ) -> mx.array:
        """MLX's CPU device gathers float32 alone: other types are converted for each product."""
        x32, weight32 = x.astype(mx.float32), weight.astype(mx.float32)
        out = super().expert_matmul(x32, weight32, expert_ids, is_sorted=is_sorted, row_ids=row_ids)
        return out.astype(weight.dtype)

    def can_compile(self) -> bool:
        return compile_mode.can_set_mode() and super().can_compile()

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Trace without fusing: MLX would run a C++ compiler for each fused kernel."""
        return compile_mode.UnfusedFunction(mx.compile(function))
