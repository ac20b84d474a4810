"""Checks of attention: chunks, windows, batches of uneven lengths, quantized caches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.select import use_backend
from mlx_mistral.cache import attention_mask, make_cache
from mlx_mistral.cache.mask import padded_mask
from mlx_mistral.cache.quantized import QuantizedRows
from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.model.attention import attend

from . import reference
from .check import Measurement, Probe, worst
from .setup import Setup, token_count
from .tolerance import EPSILON, Array, limit, normal, relative_error, sample, to_numpy

PAST = 65
"""Tokens in the cache before a chunk."""
CAUSAL_CHUNKS, NAMED_CHUNKS = (1, 2, 7, 512, 513), (1, 2, 7, 513)
"""New tokens, with plain MLX and with the overrides of another backend."""
WINDOW_CHUNKS = ((1, 64), (2, 4096), (7, 64), (513, 64))
"""New tokens and window; the past is as long as the first new token sees."""
PADDING = (0, 5, 68)
"""Columns of padding of the sequences of a batch; the last ends among the new tokens."""
BATCH_CHUNKS = (1, 7, 66)
CACHE_CHUNKS = (1, 7, 129)
SHORT = 7
"""The longest chunk of the quick run."""
N_QUERIES = 12
"""Queries that are compared, of those of a chunk."""
SCORE = 10
"""Scores are up to 10 and more: the softmax turns an error of a score into an error of shares that
is 10 times larger. Their sum adds small shares to a large one, which can round all of them in
one direction: S * 2^-23 comes on top."""
ROUNDINGS = 4
"""A kernel may round scaled queries, scores, shares and its output to the dtype."""
EDGE_SCORE = 6
"""Score of the keys on both sides of a mask's edges, far above that of other keys."""


def attention_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of every kind of mask."""
    for n_new in NAMED_CHUNKS if setup.is_named else CAUSAL_CHUNKS:
        yield Probe(
            name=setup.name(f"attention, causal, {token_count(n_new)}"),
            measure=partial(causal_error, setup, n_new, PAST, None),
            is_quick=n_new <= SHORT,
        )
    for n_new, window in WINDOW_CHUNKS:
        yield Probe(
            name=setup.name(f"attention, window of {window}, {token_count(n_new)}"),
            measure=partial(causal_error, setup, n_new, window - 1, window),
            is_quick=n_new == SHORT,
        )
    for n_new in BATCH_CHUNKS:
        yield Probe(
            name=setup.name(f"attention, uneven batch, {token_count(n_new)}"),
            measure=partial(batch_error, setup, n_new),
            is_quick=n_new == SHORT,
        )
    for bits in KV_BITS:
        yield Probe(
            name=setup.name(f"attention, {bits}-bit cache"),
            measure=partial(quantized_cache_error, setup, bits, CACHE_CHUNKS),
        )
        yield Probe(
            name=setup.name(f"attention, {bits}-bit cache, 1 token"),
            measure=partial(quantized_cache_error, setup, bits, (1,)),
            is_quick=True,
        )


def causal_error(setup: Setup, n_new: int, n_past: int, window: int | None) -> Measurement:
    """Compare a chunk of new tokens after others, with a window or without."""
    k, v = _keys_and_values(setup, 1, n_past + n_new)
    q = edge_queries(setup, k, n_new, window, (0,))
    mask = attention_mask(n_new, n_past, window)
    out = setup.backend.attention(q, k, v, scale=setup.head_dim**-0.5, mask=mask)
    return _compared(setup, out, q, to_numpy(k), to_numpy(v), window, (0,))


def batch_error(setup: Setup, n_new: int) -> Measurement:
    """Compare a batch of sequences that begin with padding of different lengths."""
    n_seen, window = PAST + n_new, 48
    k, v = _keys_and_values(setup, len(PADDING), n_seen)
    q = edge_queries(setup, k, n_new, window, PADDING)
    columns = mx.arange(n_seen)
    mask = padded_mask(columns[PAST:], columns, mx.array(PADDING), window)
    out = setup.backend.attention(q, k, v, scale=setup.head_dim**-0.5, mask=mask)
    return _compared(setup, out, q, to_numpy(k), to_numpy(v), window, PADDING)


def quantized_cache_error(setup: Setup, bits: int, chunks: Sequence[int]) -> Measurement:
    """Compare attention over keys and values of 8 or 4 bits with the same, unpacked in NumPy."""
    (cache,) = make_cache((None,), kv_bits=bits, head_dim=setup.head_dim)
    measured = []
    with use_backend(setup.backend):
        for n_new in (PAST, *chunks):
            k, v = _keys_and_values(setup, 1, n_new, seed=n_new)
            mask = cache.make_mask(n_new)
            keys, values = cache.update_and_fetch(k, v)
            assert isinstance(keys, QuantizedRows)
            assert isinstance(values, QuantizedRows)
            k_ref, v_ref = (_unpacked(rows, setup.head_dim) for rows in (keys, values))
            q = edge_queries(setup, mx.array(k_ref).astype(setup.dtype), n_new, None, (0,))
            out = attend(q, keys, values, setup.head_dim**-0.5, mask)
            measured.append(_compared(setup, out, q, k_ref, v_ref, None, (0,)))
    return worst(measured)


def edge_queries(
    setup: Setup, k: mx.array, n_new: int, window: int | None, padding: Sequence[int]
) -> mx.array:
    """Return queries that point at the keys on both sides of the mask's edges.

    A mask that is off by one then changes the output by about its rms, however many keys there are.
    Shapes: k (B, K, S, D) -> (B, H, T, D).
    """
    n_seen = k.shape[2]
    own = mx.arange(n_seen - n_new, n_seen)
    edges = [own, own + 1]
    if window is not None:
        edges += [own - window, own - window + 1]
    first = mx.array(list(padding))[:, None]
    edges += [first - 1, first]
    q = mx.zeros((*k.shape[:2], n_new, k.shape[3]))
    for edge in edges:
        columns = mx.broadcast_to(edge, (k.shape[0], n_new))[:, None, :, None]
        is_real = (columns >= 0) & (columns < n_seen)
        keys = mx.take_along_axis(k.astype(mx.float32), mx.clip(columns, 0, n_seen - 1), axis=2)
        q = q + mx.where(is_real, keys, 0)
    q = mx.repeat(q, setup.n_heads // setup.n_kv_heads, axis=1)
    q = EDGE_SCORE * setup.head_dim**-0.5 * q + 0.3 * normal(q.shape, mx.float32, seed=2)
    queries: mx.array = q.astype(setup.dtype)
    return queries


def _compared(
    setup: Setup,
    out: mx.array,
    q: mx.array,
    k: Array,
    v: Array,
    window: int | None,
    padding: Sequence[int],
) -> Measurement:
    queries = sample(q.shape[2], N_QUERIES)
    expected = reference.attention(
        to_numpy(q),
        k,
        v,
        scale=setup.head_dim**-0.5,
        window=window,
        padding=padding,
        queries=queries,
    )
    error = relative_error(out[:, :, mx.array(queries)], expected)
    allowed = limit(setup.dtype, setup.head_dim * SCORE**2, roundings=ROUNDINGS)
    return Measurement.error(error, allowed + k.shape[2] * EPSILON[mx.float32])


def _keys_and_values(
    setup: Setup, batch: int, n_seen: int, seed: int = 0
) -> tuple[mx.array, mx.array]:
    shape = (batch, setup.n_kv_heads, n_seen, setup.head_dim)
    return normal(shape, setup.dtype, seed), normal(shape, setup.dtype, seed + 1000)


def _unpacked(rows: QuantizedRows, head_dim: int) -> Array:
    """Shapes: -> (B, K, n, D)."""
    weight, scales, biases = (part[..., : rows.n, :] for part in rows[:3])
    flat = reference.dequantize(
        _matrix(weight),
        to_numpy(scales).reshape(-1, scales.shape[-1]),
        to_numpy(biases).reshape(-1, biases.shape[-1]),
        bits=rows.bits(head_dim),
        mode="affine",
    )
    return flat.reshape(*weight.shape[:3], head_dim)


def _matrix(weight: mx.array) -> Array:
    words: Array = np.array(weight).reshape(-1, weight.shape[-1])
    return words
