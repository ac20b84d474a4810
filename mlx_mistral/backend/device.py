"""The device that MLX computes on: its kind, its name, and the dtype that suits it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import mlx.core as mx

DeviceKind = Literal["metal", "cuda", "cpu"]


def device_kind() -> DeviceKind:
    """Return what MLX's default device is."""
    if mx.default_device().type != mx.DeviceType.gpu:
        return "cpu"
    return "metal" if mx.metal.is_available() else "cuda"


def on_gpu() -> bool:
    """Return whether arrays are computed on Metal or CUDA by default."""
    return device_kind() != "cpu"


def device_name() -> str:
    """Return the name of the device, such as `Apple M3 Max`."""
    return str(mx.device_info().get("device_name") or mx.default_device().type.name)


def default_dtype() -> mx.Dtype:
    """Return the dtype of activations that suits the device.

    bfloat16 on Metal and CUDA; float32 on the CPU, where bfloat16 is slow and inexact.
    """
    return mx.bfloat16 if on_gpu() else mx.float32


def on_cpu() -> AbstractContextManager[Any]:
    """Return a context in which operations run on the CPU, also where there is a GPU."""
    return mx.stream(mx.cpu)


def new_streams(count: int) -> Sequence[mx.ThreadLocalStream]:
    """Return streams of the default device that any thread may use."""
    return tuple(mx.new_thread_local_stream(mx.default_device()) for _ in range(count))
