"""Temporary memory of a backend's operations, for the memory plan. No MLX is loaded.

Letters: T new tokens, S visible tokens, H query heads, K key/value heads, D head_dim, W window,
E experts, k experts a token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from mlx_mistral.config import ModelConfig

from .fused_attention import VECTOR_QUERIES, MaskKind, fused_attention, partial_blocks
from .pipelining import METAL as METAL_LIMITS

MIN_ROWS = 4
"""Rows of the input from which the CPU backend unpacks a quantized matrix once for all."""
CHUNK_WEIGHTS, MAX_CHUNKS = 1 << 17, 64
"""Weights that the CPU backend unpacks at a time, so that they stay near the processor; more where
a matrix would make too many chunks."""
CHUNKS_IN_FLIGHT = 8
"""Such chunks that MLX allocates together."""
CPU_QUERY_CHUNK = 128
"""Queries of a chunk of attention on the CPU backend: its scores fit the processor's cache."""
CPU_QUERY_CHUNKS_IN_FLIGHT = 10
"""Such chunks without a window that MLX allocates together: all 4 of 512 tokens, 8 of 1024, up to
10 of more."""
QUERY_CHUNK = 512
"""The same elsewhere, under a window: few launches, and few keys that a chunk does not see."""
BAND_MASK_BYTES = 3
"""Bytes per query and key under a window: keys before it, keys inside the window, and both."""
FLOAT32_BYTES = 4
DECODE_SCORES = 3
"""Copies of a decoding step's scores: the product, masked, and normalized."""
STEPS_IN_FLIGHT = 2
"""Decoding steps: one computes while the next is submitted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScratchSizes:
    """Bytes that plain MLX operations allocate for intermediate results, without fused kernels.

    MLX's CPU device, on which it is measured, and CUDA.
    """

    widens_experts: bool = False
    """Unquantized experts of 16 bits are converted to float32 for each use."""

    def for_experts(self, *, is_quantized: bool) -> ScratchSizes:
        """Return the sizes for a model whose experts are quantized or not."""
        return replace(self, widens_experts=self.widens_experts and not is_quantized)

    def norm_bytes(self, item_bytes: int) -> int:
        """Return the bytes of a number inside norms and rotations: float32 without a kernel."""
        return FLOAT32_BYTES

    def attention(
        self, config: ModelConfig, window: int | None, n_new: int, n_visible: int, item_bytes: int
    ) -> int:
        """Return the bytes of scores and masks of one layer for T new tokens.

        The scores of all heads are allocated once: mask and softmax write in place.
        """
        if window is None or n_visible <= window:
            return n_new * n_visible * (config.n_heads * item_bytes + 1)
        scores = config.n_heads * item_bytes
        rows = min(QUERY_CHUNK, n_new)
        widest = min(n_visible, window + rows - 1)
        n_chunks = -(-n_new // rows)
        # The masks of chunks, or of a chunk before that still fits the window.
        masks = max(BAND_MASK_BYTES * rows * widest, min(n_new, window) * window)
        # MLX allocates the scores of all chunks before it multiplies the first with the values.
        return n_chunks * rows * widest * scores + masks

    def decode_attention(
        self, config: ModelConfig, n_visible: int, item_bytes: int, kv_bits: int | None
    ) -> int:
        """Return the bytes of scores of the decoding steps in flight."""
        return STEPS_IN_FLIGHT * _decode_scores(config, n_visible, item_bytes)

    def linear(self, config: ModelConfig, n_new: int, item_bytes: int) -> int:
        """Return the bytes of a quantized matrix that is unpacked for many rows."""
        return 0

    def widened_experts(self, config: ModelConfig, item_bytes: int) -> int:
        """Return the bytes of one layer's experts in float32, where they are converted."""
        return 0

    def in_flight(self, config: ModelConfig, layer_bytes: int, item_bytes: int) -> int:
        """Return the bytes of temporary arrays of all layers that exist at the same time.

        MLX's CPU device runs few operations ahead, and the bytes of a layer include them.
        """
        return layer_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CPUScratchSizes(ScratchSizes):
    """The same with the overrides of the CPU backend. Measured."""

    def attention(
        self, config: ModelConfig, window: int | None, n_new: int, n_visible: int, item_bytes: int
    ) -> int:
        """Return the bytes of scores and masks of one layer: causal attention comes in chunks."""
        rows = min(CPU_QUERY_CHUNK, n_new)
        widest = n_visible if window is None else min(n_visible, window + rows - 1)
        n_rows = n_new if window else min(CPU_QUERY_CHUNKS_IN_FLIGHT * rows, n_new)
        ends = range(n_visible, n_visible - n_rows, -rows)
        scores = rows * sum(min(end, widest) for end in ends)
        masks = 0 if window is None or n_visible <= window else BAND_MASK_BYTES * rows * widest
        return scores * (config.n_heads * item_bytes + 1) + masks

    def linear(self, config: ModelConfig, n_new: int, item_bytes: int) -> int:
        """Return the bytes of a quantized matrix's unpacked chunks, and of their products.

        The products are there when they are joined. Maps of one input are one matrix.
        """
        if item_bytes != FLOAT32_BYTES or config.quantization is None or n_new < MIN_ROWS:
            return 0
        heads = config.n_heads * config.head_dim
        sizes = [(heads + 2 * config.n_kv_heads * config.head_dim, config.dim), (config.dim, heads)]
        if config.moe is None:
            sizes += [(2 * config.hidden_dim, config.dim), (config.dim, config.hidden_dim)]

        def unpacked(n_out: int, n_in: int) -> int:
            chunk = max(CHUNK_WEIGHTS, -(-n_out // MAX_CHUNKS) * n_in)
            return min(n_out * n_in, CHUNKS_IN_FLIGHT * chunk) + n_new * n_out

        return FLOAT32_BYTES * max(unpacked(n_out, n_in) for n_out, n_in in sizes)

    def widened_experts(self, config: ModelConfig, item_bytes: int) -> int:
        """Return the bytes of one layer's three stacks of experts in float32."""
        if config.moe is None or not self.widens_experts or item_bytes == FLOAT32_BYTES:
            return 0
        return 3 * FLOAT32_BYTES * config.moe.num_experts * config.dim * config.hidden_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalScratchSizes(ScratchSizes):
    """The same on Metal, whose attention kernels write no scores. Arithmetic, not measured.

    Keys and values that are slices of a cache are read where they are, since their last dimension
    is contiguous; the vector kernel copies queries at most, which the projections count.
    Source: mlx, metal/scaled_dot_product_attention.cpp, eval_gpu.
    """

    def norm_bytes(self, item_bytes: int) -> int:
        """Return the bytes of a number inside norms and rotations: the kernels keep float32."""
        return item_bytes

    def attention(
        self, config: ModelConfig, window: int | None, n_new: int, n_visible: int, item_bytes: int
    ) -> int:
        """Return the bytes of masks and partial results of one layer, or of the fallback."""
        is_band = window is not None and n_visible > window
        rows = min(QUERY_CHUNK, n_new) if is_band else n_new
        keys = n_visible if window is None else min(n_visible, window + rows - 1)
        if not _is_fused(config, rows, keys, "array" if is_band else "causal"):
            return ScratchSizes.attention(self, config, window, n_new, n_visible, item_bytes)
        masks = BAND_MASK_BYTES * rows * keys if is_band else 0
        return masks + _partials(config, rows, keys, item_bytes)

    def decode_attention(
        self, config: ModelConfig, n_visible: int, item_bytes: int, kv_bits: int | None
    ) -> int:
        """Return the bytes of partial results of all layers that may be in flight.

        A quantized cache is read by plain operations, which write scores; so does the fallback.
        """
        if kv_bits is None and _is_fused(config, 1, n_visible, "none"):
            layer = _partials(config, 1, n_visible, item_bytes)
        else:
            layer = _decode_scores(config, n_visible, item_bytes)
        return layer * min(STEPS_IN_FLIGHT * config.n_layers, MAX_LAYERS_IN_FLIGHT)

    def in_flight(self, config: ModelConfig, layer_bytes: int, item_bytes: int) -> int:
        """Return the bytes of the layers that MLX may encode before the first is computed.

        MLX encodes while at most 10 command buffers are outstanding, and holds the operands of
        each until it completes. A command buffer takes operands up to a limit, and then is
        committed. MLX also waits when more is allocated than its memory limit, which is the budget;
        a plan does not rely on that.
        Source: mlx, transforms.cpp, MAX_ACTIVE_TASKS; metal/device.cpp, needs_commit.
        """
        elements = METAL_LIMITS.min_commits * METAL_LIMITS.max_buffer_elements
        operands = elements * item_bytes + layer_bytes
        most = max(operands, MIN_LAYERS_IN_FLIGHT * layer_bytes)
        return min(most, config.n_layers * layer_bytes)


MIN_LAYERS_IN_FLIGHT = 4
"""Layers so large that each operation is a command buffer: 12 of them, where a layer has at
least 3 whose operands are its largest arrays."""
MAX_LAYERS_IN_FLIGHT = 50
"""Layers so small that only the number of operations counts: 12 command buffers of 50, where a
layer has more than 12."""

CPU = CPUScratchSizes(widens_experts=True)
UNFUSED = ScratchSizes()
METAL = MetalScratchSizes()


def scratch_sizes(
    backend: Literal["mlx", "cpu"], device: Literal["metal", "cuda", "cpu"]
) -> ScratchSizes:
    """Return the sizes of a backend on a kind of device."""
    if backend == "cpu":
        return CPU
    return METAL if device == "metal" else UNFUSED


def _decode_scores(config: ModelConfig, n_visible: int, item_bytes: int) -> int:
    return DECODE_SCORES * config.n_heads * n_visible * max(item_bytes, FLOAT32_BYTES)


def _is_fused(config: ModelConfig, n_queries: int, n_keys: int, mask: MaskKind) -> bool:
    return fused_attention(
        head_dim=config.head_dim,
        n_queries=n_queries,
        n_keys=n_keys,
        gqa_factor=config.n_heads // config.n_kv_heads,
        mask=mask,
    )


def _partials(config: ModelConfig, n_queries: int, n_keys: int, item_bytes: int) -> int:
    """Return the bytes of the vector kernel's first pass: an output, a sum and a maximum a block.

    Source: mlx, metal/scaled_dot_product_attention.cpp, sdpa_vector_2pass.
    """
    if n_queries > VECTOR_QUERIES:
        return 0
    block = config.head_dim * item_bytes + 2 * FLOAT32_BYTES
    return config.n_heads * n_queries * partial_blocks(n_keys) * block
