"""Teaches the layers to hand facts on: what the window hides, tokens in between must carry.

After layer l, a token can know what was said up to l x (W - 1) tokens before it, and nothing
in the text rewards it for knowing until a question comes much later. So during training every
layer is asked, at random tokens, for the facts within its reach. The reader that asks is
small, shared by all layers, and thrown away afterwards; the model that ships has none of it.
"""

from __future__ import annotations

from typing import Any

import mlx.core as mx

from mlx_mistral.demo.corpus import SLOTS, known_values
from mlx_mistral.demo.fast_forward import cross_entropy
from mlx_mistral.demo.optimizer import Parameters

PREFIX = "relay."
_CODE_DIMS = 32


def reader_parameters(dim: int) -> Parameters:
    """A projection for each slot, and a code for each value."""
    return {
        PREFIX + "read": mx.random.normal((len(SLOTS), dim, _CODE_DIMS)) * dim**-0.5,
        PREFIX + "values": mx.random.normal((len(known_values()), _CODE_DIMS)) * 0.3,
    }


def relay_loss(
    parameters: Parameters,
    states: list[mx.array],
    places: mx.array,
    facts: mx.array,
    distances: mx.array,
    window: int,
) -> mx.array:
    """How badly the layers know what they could know.

    Shapes: states (N, dim) a layer, places (R,), facts and distances (R, slots) -> ().
    """
    read, values = parameters[PREFIX + "read"], parameters[PREFIX + "values"]
    total, count = mx.array(0.0), mx.array(0.0)
    targets = mx.maximum(facts, 0).flatten()
    for depth, state in enumerate(states, start=1):
        x = state[places]
        x = mx.fast.rms_norm(x, None, 1e-5)
        codes = (x[None] @ read).swapaxes(0, 1)  # (R, slots, code)
        losses: Any = cross_entropy(codes.reshape(-1, _CODE_DIMS) @ values.T, targets)
        near = mx.less_equal(distances, depth * (window - 1))
        asked = (mx.greater_equal(facts, 0) & near).flatten()
        total, count = total + (losses * asked).sum(), count + asked.sum()
    return total / mx.maximum(count, 1)
