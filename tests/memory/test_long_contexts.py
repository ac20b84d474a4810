"""The plan of a long context is never below the peak, and not far above it.

Keys and values before the last chunk are random: a model whose attention dominates needs the same
memory for them as for real ones, and no minutes to compute them.
"""

from __future__ import annotations

from typing import Any

import pytest

from mlx_mistral.backend.select import active_backend
from tests.memory.filled import peak_at, planned_at
from tests.memory.test_plan import quantized_model
from tests.tiny import MOE, tiny_config, tiny_model

NARROW: dict[str, Any] = {
    "dim": 64, "n_layers": 2, "head_dim": 32, "hidden_dim": 128, "n_heads": 1, "n_kv_heads": 1,
    "vocab_size": 266,
}  # fmt: skip
WINDOW: dict[str, Any] = {"sliding_window": 1024, "n_layers": 4, "n_heads": 4}
"""More heads, so that scores are the largest arrays under a window too, as in published models."""
MOST_ABOVE = 1.3 if active_backend().name == "mlx" else 1.5
"""The CPU backend packs experts into tiles, of which fewer arrays exist at the same time."""
SHORT = 1024
"""A context that the arrays of hidden states dominate: the plan may be further above the peak."""

pytestmark = pytest.mark.memory


def check(
    changes: dict[str, Any], context: int, *, bits: int | None = None, kv_bits: int | None = None
) -> None:
    config = tiny_config(**NARROW | changes)
    model = quantized_model(config, bits=bits) if bits else tiny_model(config)
    peak, planned = peak_at(model, context, kv_bits), planned_at(model, context, kv_bits)
    assert peak <= planned
    if context > SHORT:
        assert planned <= MOST_ABOVE * peak


@pytest.mark.parametrize("context", [SHORT, 4096, 16384, 65536])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="dense"),
        pytest.param(WINDOW, id="window"),
        pytest.param(MOE, id="mixture"),
        pytest.param(MOE | WINDOW, id="mixture, window"),
    ],
)
def test_a_plan_is_close_to_the_peak(changes: dict[str, Any], context: int) -> None:
    check(changes, context)


@pytest.mark.parametrize("context", [SHORT, 4096, 16384])
@pytest.mark.parametrize("changes", [pytest.param({}, id="dense"), pytest.param(MOE, id="mixture")])
def test_a_plan_is_close_to_the_peak_of_a_quantized_model(
    changes: dict[str, Any], context: int
) -> None:
    check(changes, context, bits=4)


@pytest.mark.parametrize("context", [SHORT, 4096, 16384])
@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize(
    "changes", [pytest.param({}, id="dense"), pytest.param(WINDOW, id="window")]
)
def test_a_plan_is_close_to_the_peak_with_a_quantized_cache(
    changes: dict[str, Any], kv_bits: int, context: int
) -> None:
    check(changes, context, kv_bits=kv_bits)


@pytest.mark.parametrize("context", [SHORT, 4096])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"n_heads": 8, "n_kv_heads": 2}, id="grouped queries"),
        pytest.param({"_sliding_window": [None, 1024, 1024], "n_layers": 3}, id="mixed windows"),
    ],
)
def test_a_plan_is_close_to_the_peak_of_other_layouts(
    changes: dict[str, Any], context: int
) -> None:
    check(changes, context)
