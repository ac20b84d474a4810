"""The dtype of activations: which one suits the device, and what a user may ask for."""

from __future__ import annotations

import mlx.core as mx

from mlx_mistral.backend.device import default_dtype
from mlx_mistral.errors import CheckpointError

DTYPES = {"float32": mx.float32, "bfloat16": mx.bfloat16, "float16": mx.float16}


def resolve_dtype(dtype: mx.Dtype | str | None) -> mx.Dtype:
    """An MLX dtype from one, its name, or None or "auto" for the device's default.

    Raises: CheckpointError: not a floating dtype that a model can compute in.
    """
    if dtype is None or dtype == "auto":
        return default_dtype()
    chosen = DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen is None or chosen not in DTYPES.values():
        raise CheckpointError(f"dtype {dtype} is unknown; use one of {', '.join(DTYPES)} or auto")
    return chosen


def dtype_name(dtype: mx.Dtype | str) -> str:
    """Its name in MLX, such as `bfloat16`; of a name, the same."""
    return str(dtype).rpartition(".")[2]
