"""The overrides of the CPU backend compute what plain MLX operations compute, in whole models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_models import (
    UNIFORM,
    ModelCase,
    model_cases,
    unequal_last_layer,
)
from tiny import FAMILIES, random_ids

from mlx_mistral.backend.cpu import blas
from mlx_mistral.backend.cpu.dispatch import DenseDispatch, TiledDispatch
from mlx_mistral.backend.dispatch import Dispatch, SortedDispatch
from mlx_mistral.backend.select import use_backend
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.model import Model

MXFP4 = (4, 32, "mxfp4")
CASES = {
    "float32": lambda family: ModelCase(family=family, is_fused=True),
    "4 bit": lambda family: ModelCase(
        family=family, base=UNIFORM, embedding=UNIFORM, head=UNIFORM, is_fused=True
    ),
    "mixed": unequal_last_layer,
    "mxfp4": lambda family: ModelCase(family=family, base=MXFP4, embedding=MXFP4, head=MXFP4),
}
KV_TOLERANCE = {8: 5e-3, 4: 8e-2}
"""Logits over quantized caches: rounding may move a key to the next code, which is a step."""


BACKENDS = {
    "mlx": ("mlx", False),
    "cpu": ("cpu", False),
    "cpu with a preloaded BLAS": ("cpu", True),
}


@contextmanager
def backend_in_use(description: str) -> Iterator[None]:
    name, is_preloaded = BACKENDS[description]
    with mock.patch.object(blas, "is_preloaded", return_value=is_preloaded), use_backend(name):
        yield


def logits(
    backend: str,
    model: Model,
    rows: Sequence[Sequence[int]],
    chunks: Sequence[int],
    kv_bits: int | None = None,
) -> np.ndarray:
    """Return the logits of right-aligned rows, prefilled chunk by chunk; 0 for padding.

    The last layer computes the last chunk for its last token alone.
    Shapes: -> (B, T, vocab), T without the other tokens of the last chunk.
    """
    length = max(map(len, rows))
    assert sum(chunks) == length
    padding = [length - len(row) for row in rows]
    tokens = mx.array([[0] * n + list(row) for n, row in zip(padding, rows, strict=True)])
    cache, outputs, start = model.make_cache(left_padding=padding, kv_bits=kv_bits), [], 0
    with backend_in_use(backend):
        for n in chunks:
            is_last = start + n == length
            hidden = model.model(tokens[:, start : start + n], cache, last_only=is_last)
            outputs.append(model.head(hidden))
            mx.eval(outputs[-1])
            start += n
    joined = np.array(mx.concatenate(outputs, axis=1))
    columns = np.array([*range(length - chunks[-1]), length - 1])
    is_token = columns >= np.array(padding)[:, None]
    return np.where(is_token[..., None], joined, 0.0)


def largest_difference(
    model: Model,
    rows: Sequence[Sequence[int]],
    chunks: Sequence[int],
    kv_bits: int | None = None,
) -> float:
    """Return the largest difference of any override's logits from those of plain operations."""
    plain, *others = (logits(backend, model, rows, chunks, kv_bits) for backend in BACKENDS)
    assert np.isfinite(plain).all()
    assert np.abs(plain).max() > 0.5
    return max(float(np.abs(ours - plain).max()) for ours in others)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_equal_in_chunks_of_any_length(family: str, name: str) -> None:
    """140 tokens take several chunks of queries, and make tiles of the rows of an expert."""
    case = CASES[name](family)
    model = case.build()
    ids = random_ids(152)
    assert largest_difference(model, [ids], [140, 1, 1, 9, 1]) < case.tolerance
    assert largest_difference(model, [ids[:25]], [1, 3, 20, 1]) < case.tolerance
    assert largest_difference(model, [ids[:1]], [1]) < case.tolerance


@pytest.mark.parametrize("name", ["float32", "mixed"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_uneven_rows_are_equal(family: str, name: str) -> None:
    case = CASES[name](family)
    model = case.build()
    rows = [random_ids(length, seed=length) for length in (36, 33, 25, 1)]
    assert largest_difference(model, rows, [20, 9, 1, 1, 4, 1]) < case.tolerance


@pytest.mark.parametrize("kv_bits", [8, 4])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("name", CASES)
def test_logits_over_quantized_caches_are_near(name: str, window: int | None, kv_bits: int) -> None:
    model = CASES[name]("mistral").build(**({"sliding_window": window} if window else {}))
    rows = [random_ids(length, seed=length) for length in (40, 33)]
    for chunks in ([40], [30, 1, 1, 7, 1]):
        assert largest_difference(model, rows, chunks, kv_bits) < KV_TOLERANCE[kv_bits]
        assert largest_difference(model, rows[:1], chunks, kv_bits) < KV_TOLERANCE[kv_bits]


@settings(max_examples=20, deadline=None)
@given(
    case=model_cases(),
    length=st.integers(1, 40),
    chunk=st.integers(1, 24),
    max_tokens=st.integers(1, 5),
)
def test_generated_tokens_have_equal_logits(
    case: ModelCase, length: int, chunk: int, max_tokens: int
) -> None:
    """Compiled steps included. Sequences are compared up to where a tie may part them."""
    model, generated = case.build(), []
    for backend in BACKENDS:
        with backend_in_use(backend):
            steps = generate_ids(
                model,
                random_ids(length),
                cache=model.make_cache(),
                sampling=Sampling(),
                max_tokens=max_tokens,
                prefill_step_size=chunk,
            )
            generated.append([(step.token, np.array(step.logits)) for step in steps])
    for other in generated[1:]:
        for (plain_token, plain), (token, ours) in zip(generated[0], other, strict=True):
            assert np.abs(ours - plain).max() < case.tolerance
            if token != plain_token:
                assert plain[plain_token] - plain[token] < 2 * case.tolerance
                break


@pytest.mark.parametrize(
    ("n_tokens", "dispatches"),
    [
        (140, [SortedDispatch, TiledDispatch, TiledDispatch]),
        (20, [SortedDispatch, SortedDispatch, DenseDispatch]),
        (9, [Dispatch, Dispatch, DenseDispatch]),
        (1, [Dispatch, Dispatch, Dispatch]),
    ],
)
def test_chunks_of_these_lengths_use_every_dispatch(
    n_tokens: int, dispatches: list[type[Dispatch]]
) -> None:
    experts = ModelCase(family="mixtral").build().layers[0].block_sparse_moe.switch_mlp
    for backend, expected in zip(BACKENDS, dispatches, strict=True):
        with backend_in_use(backend):
            assert type(experts.dispatch(2 * n_tokens)) is expected
