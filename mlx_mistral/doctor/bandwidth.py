"""Checks of speed: the share of the chip's memory bandwidth that operations reach."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import mlx.core as mx

from mlx_mistral.bench.bandwidth import best_seconds
from mlx_mistral.memory.chips import Chip

from .check import Measurement, Probe
from .linear import COMMON
from .quantized import QuantizedMatrix
from .setup import Setup
from .tolerance import normal

READ_BYTES, SLOW_READ_BYTES = 256 << 20, 32 << 20
"""More than the caches of any chip hold; less on a device where it would take seconds."""
PRODUCTS = 4
"""Products of one measurement on a GPU, so that submitting them takes a small part of its time."""
MIN_SHARE = 0.5
"""Copies on Apple silicon reach 83 to 92% of the nominal bandwidth, and 7B models decode at 60 to
88% of it on most chips. A Mac that reaches less than half is busy, hot or saves power."""
ADVICE = (
    "close other programs, connect the power supply, turn off low power mode, let the Mac cool "
    "down and run again; models decode slower by the same share"
)


def bandwidth_probes(setup: Setup, chip: Chip | None) -> Iterator[Probe]:
    """Yield checks of a copy and of products with one row, which read a matrix once."""
    for text, measure in (
        ("copy", copy_rate),
        ("product", product_rate),
        ("4-bit product", quantized_product_rate),
    ):
        yield Probe(
            name=setup.name(f"memory bandwidth, {text}"),
            measure=partial(bandwidth_share, setup, chip, measure),
            advice=ADVICE,
        )


def bandwidth_share(
    setup: Setup, chip: Chip | None, measure: Callable[[Setup, int], float]
) -> Measurement:
    """Return the share of the chip's bandwidth; bytes per second where the chip is unknown."""
    n_bytes = READ_BYTES if setup.is_fast else SLOW_READ_BYTES
    bytes_per_second = measure(setup, n_bytes)
    if chip is None:
        return Measurement(value=f"{bytes_per_second / 1e9:.3g} GB/s")
    return Measurement.share(bytes_per_second / (chip.bandwidth_gbs * 1e9), MIN_SHARE)


def copy_rate(setup: Setup, n_bytes: int) -> float:
    """Return the bytes per second of a copy, which reads and writes."""
    source = mx.zeros((n_bytes // setup.dtype.size,), setup.dtype)
    mx.eval(source)
    return 2 * n_bytes / best_seconds(lambda: mx.eval(source + 1))


def product_rate(setup: Setup, n_bytes: int) -> float:
    """Return the bytes per second of products of one row and a matrix."""
    n_outputs = n_bytes // (setup.dim * setup.dtype.size)
    source = normal((setup.kv_dim, setup.dim), setup.dtype, seed=1)
    weight = mx.take(source, mx.arange(n_outputs) % setup.kv_dim, axis=0)
    return _rate(setup, lambda x: x @ weight.T, weight.nbytes)


def quantized_product_rate(setup: Setup, n_bytes: int) -> float:
    """Return the bytes per second of products of one row and a matrix of 4 bits."""
    n_outputs = n_bytes * 8 // (setup.dim * COMMON.bits)
    matrix = QuantizedMatrix.random((n_outputs, setup.dim), COMMON, setup.dtype)

    def product(x: mx.array) -> mx.array:
        return setup.backend.quantized_linear(
            x,
            matrix.words,
            matrix.scales,
            matrix.biases,
            group_size=COMMON.group_size,
            bits=COMMON.bits,
            mode=COMMON.mode,
        )

    mx.eval(matrix.words, matrix.scales, matrix.biases)
    return _rate(setup, product, matrix.nbytes)


def _rate(setup: Setup, product: Callable[[mx.array], mx.array], n_bytes: int) -> float:
    rows = [
        normal((1, setup.dim), setup.dtype, seed)
        for seed in range(PRODUCTS if setup.is_fast else 1)
    ]
    mx.eval(rows, product(rows[0]))
    seconds = best_seconds(lambda: mx.eval([product(row) for row in rows]))
    return len(rows) * n_bytes / seconds
