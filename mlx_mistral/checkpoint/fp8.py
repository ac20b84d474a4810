"""FP8 checkpoints: an E4M3 byte for each weight, and the scale that brings them back.

Source: transformers' ministral3 conversion and vLLM's Mistral loader: weight = fp8 * scale,
for `qscale_weight`, `weight_scale` and, in spite of its name, `weight_scale_inv`.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.untrusted import shown

from .parameters import Piece

BLOCK = 128


def check_scale(piece: Piece) -> None:
    """Raises: CheckpointError: the scale is neither one number, one a row, nor one a block."""
    if piece.scale is None:
        return
    weight, scale = piece.tensor, piece.scale
    if len(weight.shape) != 2 or scale.shape not in _scale_shapes(*weight.shape):
        raise CheckpointError(
            f"{scale.file}: {shown(scale.name)} of shape {list(scale.shape)} does not scale a "
            f"weight of shape {list(weight.shape)}: one number, one a row, or one for each "
            f"{BLOCK}x{BLOCK} block is supported"
        )
    if scale.dtype not in ("F32", "BF16", "F16"):
        raise CheckpointError(f"{scale.file}: {shown(scale.name)} is {scale.dtype}; no FP8 scale")


def dequantize(weight: mx.array, scale: mx.array) -> mx.array:
    """E4M3 bytes (out, in) times a scale -> float32 (out, in), exact but for one rounding.

    Shapes: scale (), (1,), (1, 1), (out,), (out, 1) or (ceil(out/128), ceil(in/128)).
    """
    decoded = mx.from_fp8(weight, dtype=mx.float32)
    scale = scale.astype(mx.float32)
    rows, columns = weight.shape
    if scale.size == 1:
        return decoded * scale.reshape(())
    if scale.shape in ((rows,), (rows, 1)):
        return decoded * scale.reshape(rows, 1)
    spread = mx.repeat(mx.repeat(scale, BLOCK, axis=0), BLOCK, axis=1)
    return decoded * spread[:rows, :columns]


def _scale_shapes(rows: int, columns: int) -> set[tuple[int, ...]]:
    blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
    return {(), (1,), (1, 1), (rows,), (rows, 1), blocks}
