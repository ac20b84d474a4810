"""Limits of a machine: the bandwidth of its memory and its speed in products of matrices."""

from __future__ import annotations

import mlx.core as mx
import pytest

from mlx_mistral.bench import bandwidth
from mlx_mistral.memory.chips import Chip, find_chip


def test_the_bandwidth_of_a_mac_is_that_of_its_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    def this_chip(*, gpu_cores: int | None = None) -> Chip:
        return find_chip("Apple M4 Max", gpu_cores=gpu_cores)

    monkeypatch.setattr(bandwidth, "this_chip", this_chip)
    for gpu_cores, expected in ((None, 410e9), (32, 410e9), (40, 546e9)):
        limit = bandwidth.memory_bandwidth(gpu_cores=gpu_cores)
        assert (limit.bytes_per_second, limit.source) == (expected, "nominal, M4 Max")


def test_elsewhere_it_is_measured_and_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "this_chip", lambda **_: None)
    found = bandwidth.memory_bandwidth(n_bytes=1 << 16)
    assert found.bytes_per_second > 0
    assert found.source in ("measured: a copy by MLX", "measured: a copy by NumPy")


def test_the_limit_of_arithmetic_is_measured() -> None:
    assert bandwidth.matrix_flops(mx.float32, size=32) > 0
