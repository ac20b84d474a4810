"""Checks of a mixture's products: dispatch, plain and quantized experts, experts alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.dispatch import RunExperts
from mlx_mistral.config.quantization import AFFINE_BITS, FIXED_MODES, QuantParams

from .check import Measurement, Probe, worst
from .linear import COMMON
from .quantized import SOURCE_ROWS, QuantizedMatrix, describe
from .setup import Setup, token_count
from .tolerance import Array, limit, n_different, normal, relative_error, sample, to_numpy

TOP_K = 2
FEW, MANY, LONG = 1, 17, 131
"""Tokens of a decode step, of the smallest sorted product of 8 experts, and of a chunk that the CPU
backend packs into tiles."""
NARROW = 1024
"""Outputs of an expert where the full width would take too long."""
N_OUTPUTS = 48
"""Output columns that are compared."""
FORMATS = (
    *(QuantParams(group_size=64, bits=bits) for bits in AFFINE_BITS),
    *(QuantParams(group_size=g, bits=b, mode=mode) for mode, (b, g) in FIXED_MODES.items()),
)


def expert_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of products with a stack of experts.

    The CPU backend overrides unquantized products alone.
    """
    dim, hidden = setup.dim, setup.hidden_dim
    narrow = min(NARROW, hidden)
    sorted_counts = (LONG,) if setup.is_named else (MANY, LONG) if setup.is_fast else (MANY,)
    yield Probe(
        name=setup.name(f"experts, {dim} to {hidden} and back"),
        measure=partial(plain_error, setup, hidden, (FEW,)),
    )
    yield Probe(
        name=setup.name(f"experts, sorted, {dim} to {hidden if setup.is_fast else narrow}"),
        measure=partial(plain_error, setup, hidden if setup.is_fast else narrow, sorted_counts),
    )
    if not setup.is_named:
        yield Probe(
            name=setup.name(f"experts, 4-bit, {dim} to {hidden} and back"),
            measure=partial(quantized_error, setup, COMMON, ((hidden, dim), (dim, hidden)), (FEW,)),
        )
    for params in () if setup.is_named else FORMATS:
        yield Probe(
            name=setup.name(f"experts, {describe(params)}"),
            measure=partial(quantized_error, setup, params, ((narrow, dim),), (FEW, MANY)),
            is_quick=params == COMMON,
        )
    for n_tokens in (FEW, MANY, LONG):
        yield Probe(
            name=setup.name(f"single expert, {token_count(n_tokens)}"),
            measure=partial(plain_alone, setup, n_tokens),
            is_quick=n_tokens == FEW,
        )
        yield Probe(
            name=setup.name(f"single expert, 4-bit, {token_count(n_tokens)}"),
            measure=partial(quantized_alone, setup, n_tokens),
            is_quick=n_tokens == FEW,
        )


def plain_error(setup: Setup, n_outputs: int, token_counts: Sequence[int]) -> Measurement:
    """Compare products with unquantized experts, and with the same stack in the other shape."""
    stack = random_stack(setup, n_outputs, setup.dim)
    measured = []
    for matrices in (stack, stack.reshape(len(stack), setup.dim, n_outputs)):
        columns = sample(matrices.shape[1], N_OUTPUTS)
        measured.append(
            _compared(
                setup,
                plain_experts(setup, matrices),
                [to_numpy(expert[mx.array(columns)]) for expert in matrices],
                columns,
                token_counts,
                is_quantized=False,
            )
        )
    return worst(measured)


def quantized_error(
    setup: Setup,
    params: QuantParams,
    shapes: Sequence[tuple[int, int]],
    token_counts: Sequence[int],
) -> Measurement:
    """Compare products with quantized experts of some shapes (out, in)."""
    measured = []
    for n_outputs, n_inputs in shapes:
        n_experts = setup.n_experts(n_outputs * n_inputs * params.bits // 8)
        matrix = QuantizedMatrix.random((n_experts, n_outputs, n_inputs), params, setup.dtype)
        columns = sample(n_outputs, N_OUTPUTS)
        measured.append(
            _compared(
                setup,
                quantized_experts(setup, matrix),
                [matrix.weights(columns, expert) for expert in range(n_experts)],
                columns,
                token_counts,
                is_quantized=True,
            )
        )
    return worst(measured)


def plain_alone(setup: Setup, n_tokens: int) -> Measurement:
    """Compare an unquantized expert alone with the same expert in its stack."""
    stack = random_stack(setup, _width_alone(setup), setup.dim)
    alone = [plain_experts(setup, stack[e : e + 1]) for e in range(len(stack))]
    return _differences(setup, plain_experts(setup, stack), alone, n_tokens, is_quantized=False)


def quantized_alone(setup: Setup, n_tokens: int) -> Measurement:
    """Compare a quantized expert alone with the same expert in its stack."""
    shape = (setup.n_experts(1), _width_alone(setup), setup.dim)
    matrix = QuantizedMatrix.random(shape, COMMON, setup.dtype)
    alone = []
    for e in range(shape[0]):
        biases = None if matrix.biases is None else matrix.biases[e : e + 1]
        part = replace(
            matrix,
            words=matrix.words[e : e + 1],
            scales=matrix.scales[e : e + 1],
            biases=biases,
        )
        alone.append(quantized_experts(setup, part))
    return _differences(setup, quantized_experts(setup, matrix), alone, n_tokens, is_quantized=True)


def random_stack(setup: Setup, n_outputs: int, n_inputs: int) -> mx.array:
    """Return the random matrices of as many experts as memory allows. Shapes: -> (E, out, in)."""
    n_experts = setup.n_experts(n_outputs * n_inputs * setup.dtype.size)
    n_rows = n_experts * n_outputs
    source = normal((min(n_rows, SOURCE_ROWS), n_inputs), setup.dtype, seed=5)
    if n_rows > SOURCE_ROWS:
        source = mx.take(source, mx.arange(n_rows) % SOURCE_ROWS, axis=0)
    return source.reshape(n_experts, n_outputs, n_inputs)


def plain_experts(setup: Setup, stack: mx.array) -> RunExperts:
    """Return a function that multiplies rows by the matrices of experts."""
    return lambda x, ids, is_sorted, rows=None: setup.backend.expert_matmul(
        x, stack, ids, is_sorted=is_sorted, row_ids=rows and rows.inputs
    )


def quantized_experts(setup: Setup, matrix: QuantizedMatrix) -> RunExperts:
    """Return a function that multiplies rows by the quantized matrices of experts."""
    params = matrix.params
    return lambda x, ids, is_sorted, rows=None: setup.backend.quantized_expert_matmul(
        x,
        matrix.words,
        matrix.scales,
        matrix.biases,
        ids,
        group_size=params.group_size,
        bits=params.bits,
        mode=params.mode,
        is_sorted=is_sorted,
        row_ids=rows and rows.inputs,
    )


def routing(n_tokens: int, n_experts: int) -> Array:
    """Return two different experts of each token. Shapes: -> (1, T, 2)."""
    rng = np.random.default_rng(n_tokens)
    return np.stack([rng.permutation(n_experts)[:TOP_K] for _ in range(n_tokens)])[None]


def _compared(
    setup: Setup,
    experts: RunExperts,
    weights: Sequence[Array],
    columns: list[int],
    token_counts: Sequence[int],
    *,
    is_quantized: bool,
) -> Measurement:
    """Weights: of each expert the compared rows, (len(columns), in)."""
    n_experts, n_inputs = len(weights), weights[0].shape[1]
    errors = []
    for n_tokens in token_counts:
        ids = routing(n_tokens, n_experts)
        x = normal((1, n_tokens, n_inputs), setup.dtype, seed=n_tokens)
        dispatch = setup.backend.dispatch(ids.size, n_experts, is_quantized=is_quantized)
        out = dispatch.run(x, mx.array(ids.astype(np.uint32)), experts)
        rows = to_numpy(x)[0]
        expected = np.stack(
            [[weights[e] @ row for e in chosen] for row, chosen in zip(rows, ids[0], strict=True)]
        )
        errors.append(relative_error(out[0][..., mx.array(columns)], expected))
    return Measurement.error(max(errors), limit(setup.dtype, n_inputs, roundings=2))


def _differences(
    setup: Setup,
    experts: RunExperts,
    alone: Sequence[RunExperts],
    n_tokens: int,
    *,
    is_quantized: bool,
) -> Measurement:
    """Count values of two experts alone that are not bit-equal to those of the stack.

    Experts that are read from disk run alone; the reply must not depend on that.
    """
    ids = routing(n_tokens, len(alone))
    x = normal((1, n_tokens, setup.dim), setup.dtype, seed=n_tokens)
    dispatch = setup.backend.dispatch(ids.size, len(alone), is_quantized=is_quantized)
    together = dispatch.run(x, mx.array(ids.astype(np.uint32)), experts).flatten(0, -2)
    count = 0
    for expert in ids[0, 0]:
        routed = np.flatnonzero(ids.reshape(-1) == expert)
        out = dispatch.run_expert(x[0], routed // TOP_K, alone[expert])
        count += n_different(out, together[mx.array(routed)])
    return Measurement.differences(count)


def _width_alone(setup: Setup) -> int:
    """Return the outputs of experts that are compared bit by bit."""
    return min(NARROW if setup.is_fast else NARROW // 4, setup.hidden_dim)
