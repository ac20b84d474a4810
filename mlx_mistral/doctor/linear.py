"""Checks of norms, rotary embeddings, quantized products and compiled functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.ops import RotaryTable
from mlx_mistral.config import YarnConfig
from mlx_mistral.config.quantization import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES, QuantParams
from mlx_mistral.model.rope import yarn_periods

from . import reference
from .check import Measurement, Probe
from .quantized import QuantizedMatrix, describe
from .setup import Setup
from .tolerance import ALLOWANCE, EPSILON, limit, normal, relative_error, sample, to_numpy

EPS = 1e-5
ROWS = (1, 2, 7, 512, 513)
SHORT_ROWS = (1, 2, 7)
LONG_ROWS = (512, 513)
SLOW_ROWS = (*SHORT_ROWS, 33)
"""Rows where a prompt in every format would take too long."""
N_OUTPUTS = 64
"""Output columns that are compared."""
LONG_OUTPUTS = 128
"""Output columns of a long prompt on a slow device."""
N_ROWS = 12
"""Rows that are compared."""
COMMON = QuantParams(group_size=64, bits=4)
"""The format of most quantized models."""
FORMATS = (
    *(QuantParams(group_size=g, bits=b) for b in AFFINE_BITS for g in AFFINE_GROUPS),
    *(QuantParams(group_size=g, bits=b, mode=mode) for mode, (b, g) in FIXED_MODES.items()),
)
LONG_FORMATS = (
    COMMON,
    QuantParams(group_size=64, bits=8),
    QuantParams(group_size=32, bits=4, mode="mxfp4"),
)
"""Formats whose long prompts are checked on a slow device too."""
POSITIONS: dict[str, int | tuple[int, ...]] = {
    "from position 0": 0,
    "from position 4090": 4090,
    "a batch at 3 and 1000": (3, 1000),
}
YARN = YarnConfig(factor=8.0, original_context=4096, attention_factor=YarnConfig.magnitude(8.0))


def linear_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of the operations of a dense layer, attention aside."""
    yield Probe(name=setup.name("rms norm"), measure=partial(rms_norm_error, setup), is_quick=True)
    for text, position in POSITIONS.items():
        yield Probe(
            name=setup.name(f"rotary embedding, {text}"),
            measure=partial(rotation_error, setup, position, None),
            is_quick=True,
        )
    yield Probe(
        name=setup.name("rotary embedding, YaRN"),
        measure=partial(rotation_error, setup, 4090, YARN),
        is_quick=True,
    )
    for params in (COMMON,) if setup.is_named else FORMATS:
        yield Probe(
            name=setup.name(f"quantized product, {describe(params)}"),
            measure=partial(quantized_linear_error, setup, params, _rows(setup, params)),
            is_quick=params in LONG_FORMATS and not setup.is_named,
        )
    for params in () if setup.is_fast or setup.is_named else LONG_FORMATS:
        yield Probe(
            name=setup.name(f"quantized product, {describe(params)}, long prompt"),
            measure=partial(
                quantized_linear_error, setup, params, LONG_ROWS, n_outputs=LONG_OUTPUTS
            ),
        )
    if not setup.is_named:
        yield Probe(
            name=setup.name(f"quantized product, {describe(COMMON)}, {setup.hidden_dim} inputs"),
            measure=partial(
                quantized_linear_error, setup, COMMON, SHORT_ROWS, n_inputs=setup.hidden_dim
            ),
        )
    yield Probe(name=setup.name("compiled step"), measure=partial(compiled_error, setup))


def rms_norm_error(setup: Setup) -> Measurement:
    """Compare the norm of one row and of many."""
    weight = 1 + 0.3 * normal((setup.dim,), setup.dtype, seed=1)
    errors = []
    for n_rows in ROWS:
        # Rows as small as eps lets them be, so that a missing eps changes the result.
        scales = mx.array([3.0, EPS**0.5])[mx.arange(n_rows) % 2][:, None].astype(setup.dtype)
        x = normal((n_rows, setup.dim), setup.dtype, seed=n_rows) * scales
        out = setup.backend.rms_norm(x, weight, EPS)
        errors.append(relative_error(out, reference.rms_norm(to_numpy(x), to_numpy(weight), EPS)))
    return Measurement.error(max(errors), limit(setup.dtype, setup.dim, roundings=2))


def rotation_error(
    setup: Setup, position: int | tuple[int, ...], yarn: YarnConfig | None
) -> Measurement:
    """Compare the rotation of short chunks, whole and without their first tokens.

    The angle of the fastest dimension is the position in radians, rounded to float32.
    """
    theta, dim = 1e6, setup.head_dim
    if yarn is None:
        table = RotaryTable(dims=dim, base=theta)
        frequencies = theta ** (-np.arange(0, dim, 2) / dim)
    else:
        periods = yarn_periods(dim, theta, yarn)
        table = RotaryTable(dims=dim, base=None, periods=periods, magnitude=yarn.attention_factor)
        frequencies = 1 / to_numpy(periods)
    first = np.atleast_1d(np.array(position))
    start = mx.array(position) if isinstance(position, tuple) else position
    errors = []
    for n_new in SHORT_ROWS:
        x = normal((len(first), setup.n_heads, n_new, dim), setup.dtype, seed=n_new)
        rotation = setup.backend.rotation(table, start, n_new=n_new, dtype=setup.dtype)
        positions = first[:, None] + np.arange(n_new)
        expected = reference.rotate(to_numpy(x), positions, frequencies, table.magnitude)
        errors.append(relative_error(rotation(x), expected))
        if n_new > 1:
            skip = n_new - 1
            errors.append(relative_error(rotation(x[:, :, skip:], skip), expected[:, :, skip:]))
    n_turns = float(first.max() + SHORT_ROWS[-1])
    roundings = 2 if yarn is None else 3
    return Measurement.error(max(errors), limit(setup.dtype, 1, roundings=roundings)
                             + ALLOWANCE * EPSILON[mx.float32] * n_turns)  # fmt: skip


def quantized_linear_error(
    setup: Setup,
    params: QuantParams,
    row_counts: Sequence[int],
    *,
    n_inputs: int | None = None,
    n_outputs: int | None = None,
) -> Measurement:
    """Compare random rows times a random quantized matrix, at a sample of outputs.

    Args:
        n_inputs, n_outputs: of the matrix; None: those of the projection to keys.
    """
    n_inputs, n_outputs = n_inputs or setup.dim, n_outputs or setup.kv_dim
    matrix = QuantizedMatrix.random((n_outputs, n_inputs), params, setup.dtype)
    columns = sample(n_outputs, N_OUTPUTS)
    weights = matrix.weights(columns)
    errors = []
    for n_rows in row_counts:
        x = normal((1, n_rows, n_inputs), setup.dtype, seed=n_rows)
        out = setup.backend.quantized_linear(
            x,
            matrix.words,
            matrix.scales,
            matrix.biases,
            group_size=params.group_size,
            bits=params.bits,
            mode=params.mode,
        )
        rows = sample(n_rows, N_ROWS)
        expected = to_numpy(x[0, mx.array(rows)]) @ weights.T
        errors.append(relative_error(out[0][mx.array(rows)][:, mx.array(columns)], expected))
    return Measurement.error(max(errors), limit(setup.dtype, n_inputs, roundings=2))


def compiled_error(setup: Setup) -> Measurement:
    """Compare a compiled function with the same function; the second call replays the first."""
    if not setup.backend.can_compile():
        return Measurement(value="MLX compiles nothing on this machine")
    weight = 1 + 0.3 * normal((setup.dim,), setup.dtype, seed=1)

    def step(x: mx.array, residual: mx.array) -> mx.array:
        y = setup.backend.rms_norm(x, weight, EPS)
        return residual + y * mx.sigmoid(y) * x

    compiled = setup.backend.compile(step)
    errors = []
    for seed in (1, 2):
        arrays = [normal((1, 1, setup.dim), setup.dtype, seed=10 * seed + i) for i in range(2)]
        errors.append(relative_error(compiled(*arrays), to_numpy(step(*arrays))))
    return Measurement.error(max(errors), limit(setup.dtype, 1, roundings=4))


def _rows(setup: Setup, params: QuantParams) -> Sequence[int]:
    """Return the numbers of rows that a format is checked with."""
    if setup.is_fast:
        return ROWS
    is_main = params.mode.endswith("fp4") or params.group_size == COMMON.group_size
    return SLOW_ROWS if is_main else SHORT_ROWS
