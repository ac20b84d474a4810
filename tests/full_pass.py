"""Models with a window or none, and what they compute without any cache."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
from tiny import tiny_config, tiny_model

from mlx_mistral.cache import attention_mask
from mlx_mistral.model import Model

_models: dict[int | None, Model] = {}


def model_with(window: int | None) -> Model:
    if window not in _models:
        _models[window] = tiny_model(tiny_config(n_layers=2, sliding_window=window))
    return _models[window]


def full_pass(model: Model, ids: list[int]) -> np.ndarray:
    """One pass under the whole (T, T) mask, which no cache takes part in."""
    mask = attention_mask(len(ids), 0, model.config.windows[0], return_array=True)
    x = model.model.embed(mx.array([ids]))
    rotation = model.model.rotation(0, len(ids), x.dtype)
    for layer in model.layers:
        x = layer(x, rotation, mask)
    return np.array(model.head(model.model.norm(x))[0])
