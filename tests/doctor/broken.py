"""Backends with one mistake each, small enough to be made by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.dispatch import Dispatch, RunExperts
from mlx_mistral.backend.ops import Backend, RotaryTable, Rotation
from mlx_mistral.cache.mask import Band, Mask


class AllVisible(Backend):
    """Attention without a mask."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        return super().attention(q, k, v, scale=scale, mask=None)


class MaskOffByOne(Backend):
    """Each token sees the next one, too; masks of batches are shifted by a key."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        n_new, n_seen = q.shape[2], k.shape[2]
        if mask == "causal":
            columns = mx.arange(n_seen)
            mask = columns[n_seen - n_new :, None] + 1 >= columns
        elif isinstance(mask, mx.array):
            mask = mx.roll(mask, 1, axis=-1)
        return super().attention(q, k, v, scale=scale, mask=mask)


class WindowOffByOne(Backend):
    """A window is one key wider."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        wider = Band(mask.window + 1) if isinstance(mask, Band) else mask
        return super().attention(q, k, v, scale=scale, mask=wider)


class WrongScale(Backend):
    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        return super().attention(q, k, v, scale=scale * 1.2, mask=mask)


class WrongGroups(Backend):
    """Query heads take keys in turn instead of in groups."""

    def attention(self, q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask) -> Any:
        shared = q.shape[1] // k.shape[1]
        k, v = mx.tile(k, (1, shared, 1, 1)), mx.tile(v, (1, shared, 1, 1))
        return super().attention(q, k, v, scale=scale, mask=mask)


class NoEps(Backend):
    def rms_norm(self, x: mx.array, weight: mx.array, eps: float) -> mx.array:
        return super().rms_norm(x, weight, 0.0)


class PositionOffByOne(Backend):
    def rotation(
        self, table: RotaryTable, position: mx.array | int, *, n_new: int, dtype: mx.Dtype
    ) -> Rotation:
        return super().rotation(table, position + 1, n_new=n_new, dtype=dtype)


class NoSkip(Backend):
    """The rotation of a chunk's last tokens begins at its first position."""

    def rotation(
        self, table: RotaryTable, position: mx.array | int, *, n_new: int, dtype: mx.Dtype
    ) -> Rotation:
        class Unskipped(Rotation):
            def __call__(self, x: mx.array, skip: int = 0) -> mx.array:
                return super().__call__(x)

        return Unskipped(table, position)


class NoMagnitude(Backend):
    def rotation(
        self, table: RotaryTable, position: mx.array | int, *, n_new: int, dtype: mx.Dtype
    ) -> Rotation:
        table = replace(table, magnitude=1.0)
        return super().rotation(table, position, n_new=n_new, dtype=dtype)


class ShiftedGroups(Backend):
    """Scales of a quantized matrix belong to the group after theirs."""

    def quantized_linear(
        self, x: mx.array, weight: mx.array, scales: mx.array, biases: Any, **form: Any
    ) -> mx.array:
        return super().quantized_linear(x, weight, mx.roll(scales, 1, axis=-1), biases, **form)


class FailsForLongPrompts(Backend):
    def quantized_linear(
        self, x: mx.array, weight: mx.array, scales: mx.array, biases: Any, **form: Any
    ) -> mx.array:
        if x.shape[-2] > 32:
            raise RuntimeError("no kernel for so many rows")
        return super().quantized_linear(x, weight, scales, biases, **form)


class NeighbourExpert(Backend):
    def expert_matmul(
        self, x: mx.array, weight: mx.array, expert_ids: mx.array, *, is_sorted: bool
    ) -> mx.array:
        ids = (expert_ids + 1) % weight.shape[0]
        return super().expert_matmul(x, weight, ids, is_sorted=is_sorted)


class QuantizedNeighbourExpert(Backend):
    def quantized_expert_matmul(
        self, x: mx.array, weight: mx.array, scales: Any, biases: Any, expert_ids: Any, **form: Any
    ) -> mx.array:
        ids = (expert_ids + 1) % weight.shape[0]
        return super().quantized_expert_matmul(x, weight, scales, biases, ids, **form)


class SwappedChoices(Dispatch):
    def run(self, x: mx.array, expert_ids: mx.array, experts: RunExperts) -> mx.array:
        return super().run(x, expert_ids, experts)[..., ::-1, :]


class OtherRounding(Dispatch):
    """An expert alone rounds in another way than in its stack."""

    def run_expert(self, x: mx.array, token_rows: np.ndarray, expert: RunExperts) -> mx.array:
        return super().run_expert(x, token_rows, expert) * (1 + 1e-6)


class WrongDispatch(Backend):
    def dispatch(self, n_routed: int, num_experts: int, *, is_quantized: bool) -> Dispatch:
        return SwappedChoices()


class InexactDispatch(Backend):
    def dispatch(self, n_routed: int, num_experts: int, *, is_quantized: bool) -> Dispatch:
        return OtherRounding()


class FrozenCompile(Backend):
    """A compiled function repeats its first result."""

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        results: list[Any] = []

        def replay(*arrays: mx.array) -> Any:
            if not results:
                results.append(function(*arrays))
            return results[0]

        return replay


LONG_CACHES = ("attention, 8-bit cache", "attention, 4-bit cache")
"""Long chunks unpack a quantized cache and use the backend's attention."""
ATTENTION = ("attention, causal", "attention, window", "attention, uneven", *LONG_CACHES)
BROKEN: dict[type[Backend], tuple[str, ...]] = {
    AllVisible: ATTENTION,
    MaskOffByOne: ("attention, causal", "attention, uneven", *LONG_CACHES),
    WindowOffByOne: ("attention, window",),
    WrongScale: ATTENTION,
    WrongGroups: ATTENTION,
    NoEps: ("rms norm",),
    PositionOffByOne: ("rotary",),
    NoSkip: ("rotary",),
    NoMagnitude: ("rotary embedding, YaRN",),
    ShiftedGroups: ("quantized product",),
    FailsForLongPrompts: ("quantized product",),
    NeighbourExpert: ("experts, ", "single expert, "),
    QuantizedNeighbourExpert: ("experts, ", "single expert, 4-bit"),
    WrongDispatch: ("experts, ", "single expert"),
    InexactDispatch: ("single expert",),
    FrozenCompile: ("compiled step",),
}
"""Each with the kinds of checks that it fails."""
