"""Prefill in chunks and decoding of every model give the logits of the specification.

These are properties of plain MLX operations, the code path of a Mac: over prompts that end near the
end of a chunk, matrices quantized unequally, fused or not, windows, tied heads, scaled queries,
rows of uneven length, and bfloat16.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from unittest import mock

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_models import DENSE, Format, ModelCase, Specification, model_cases, unequal_last_layer
from tiny import FAMILIES, random_ids

from mlx_mistral.backend import ops
from mlx_mistral.cache import KVCache
from mlx_mistral.generation import Sampler, Sampling, Step, generate_ids
from mlx_mistral.generation.decode import decode
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.model import Model

CHUNKS = [1, 2, 3, 4, 5, 7, 16, 20]
"""Tokens of a chunk: below and above the windows, and enough to sort tokens by expert."""
BF16_MEAN_ERROR, BF16_QUANTIZED_MEAN_ERROR = 0.1, 0.25
"""Errors of bfloat16 logits of order 1 after four layers, about three times the rounding.
A wrong position or mask moves them by about 1."""


@st.composite
def prompts(draw: st.DrawFn) -> tuple[int, int]:
    """Return the tokens of a chunk, and a prompt length of k chunks and 0, 1 or 2 tokens more.

    With no whole chunk, a prompt is one token, or shorter than a chunk.
    """
    chunk = draw(st.sampled_from(CHUNKS))
    length = draw(st.integers(0, 3)) * chunk + draw(st.integers(0, 2))
    return chunk, length or max(1, chunk - 1)


def decoded(
    model: Model, cache: Sequence[KVCache], prompt: Sequence[int], chunk: int, max_tokens: int
) -> list[Step]:
    """Return greedy steps, and assert that no chunk of the prompt is longer than asked."""
    ends: list[int] = []
    generated = generate_ids(
        model,
        prompt,
        cache=cache,
        sampling=Sampling(),
        max_tokens=max_tokens,
        prefill_step_size=chunk,
        progress=lambda n_prefilled, _: ends.append(n_prefilled),
    )
    steps = list(generated)
    assert ends[-1] == len(prompt)
    assert max(np.diff(ends)) <= chunk
    return steps


def check_turns(
    case: ModelCase, chunk: int, lengths: Sequence[int], max_tokens: int, seed: int = 0
) -> None:
    """Assert that each turn continues the sequence in the cache as the specification does."""
    model = case.build()
    specification, cache, ids = Specification(model), model.make_cache(), list[int]()
    for turn, length in enumerate(lengths):
        ids += random_ids(length, seed=seed + turn)
        steps = decoded(model, cache, ids[cache[0].offset :], chunk, max_tokens)
        tokens = [step.token for step in steps]
        assert len(tokens) == max_tokens
        specification.check_greedy(ids, tokens, [step.logits for step in steps], case.tolerance)
        ids += tokens


@settings(max_examples=40, deadline=None)
@given(
    case=model_cases(),
    prompt=prompts(),
    second_length=st.integers(1, 3),
    max_tokens=st.integers(1, 4),
    query_chunk=st.sampled_from([3, 512]),
)
def test_chunks_and_decoded_tokens_match_the_specification(
    case: ModelCase,
    prompt: tuple[int, int],
    second_length: int,
    max_tokens: int,
    query_chunk: int,
) -> None:
    """A second turn may begin with a chunk of one token over a filled cache."""
    chunk, length = prompt
    with mock.patch.object(ops, "QUERY_CHUNK", query_chunk):
        check_turns(case, chunk, [length, second_length], max_tokens)


@pytest.mark.parametrize("is_fused", [False, True], ids=["apart", "fused"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_last_chunk_of_one_token_runs_where_the_last_layer_is_quantized_unequally(
    family: str, is_fused: bool
) -> None:
    """As `convert --recipe mixed_3_6` makes it, q, k and v of that layer have no common form."""
    case = replace(unequal_last_layer(family), is_fused=is_fused)
    layers = case.build().layers
    assert layers[-1].self_attn.fused() is None
    assert (layers[0].self_attn.fused() is not None) == is_fused
    for length in (1, 5, 9):
        check_turns(case, 4, [length], 2)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_last_chunk_of_many_tokens_matches_the_specification(family: str) -> None:
    """Chunks are longer than the chunk of queries of attention, and than scaled positions."""
    case = replace(unequal_last_layer(family), seed=1)
    with mock.patch.object(ops, "QUERY_CHUNK", 8):
        check_turns(case, 30, [44, 17], 2)


@settings(max_examples=25, deadline=None)
@given(
    case=model_cases(),
    lengths=st.lists(st.integers(1, 24), min_size=2, max_size=4),
    chunk=st.sampled_from(CHUNKS),
    max_tokens=st.integers(1, 4),
)
def test_rows_padded_on_the_left_match_the_specification(
    case: ModelCase, lengths: list[int], chunk: int, max_tokens: int
) -> None:
    model, longest = case.build(), max(lengths)
    specification = Specification(model)
    rows = [random_ids(length, seed=row) for row, length in enumerate(lengths)]
    padding = [longest - length for length in lengths]
    cache = model.make_cache(left_padding=padding)
    tokens = mx.array([[0] * n + row for n, row in zip(padding, rows, strict=True)])
    logits = prefill(model, tokens, cache, step_size=chunk)
    sampler = Sampler(Sampling(), model.config.vocab_size, rows)
    steps = list(decode(model, cache, logits, sampler, max_tokens))
    assert len(steps) == max_tokens
    for row, prompt in enumerate(rows):
        ids, row_logits = [step[0][row] for step in steps], [step[1][row] for step in steps]
        specification.check_greedy(prompt, ids, row_logits, case.tolerance)


@pytest.mark.parametrize("form", [(4, 32, "affine"), (4, 32, "mxfp4")], ids=["affine", "mxfp4"])
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16])
def test_quantized_embeddings_have_the_dtype_of_the_model(dtype: mx.Dtype, form: Format) -> None:
    """Else activations would be computed in another dtype from the first layer on."""
    model = ModelCase(family="mistral", embedding=form).build(dtype)
    dtypes: list[mx.Dtype] = []
    model.model(mx.array([[1, 2]]), None, lambda x: dtypes.append(x.dtype))
    assert dtypes == [dtype] * len(model.layers)


@settings(max_examples=25, deadline=None)
@given(case=model_cases(DENSE), prompt=prompts(), max_tokens=st.integers(1, 4))
def test_bfloat16_logits_are_near_those_of_the_specification(
    case: ModelCase, prompt: tuple[int, int], max_tokens: int
) -> None:
    """Dense families: MLX's CPU device gathers the experts' matrices in float32 alone."""
    chunk, length = prompt
    model, ids = case.build(mx.bfloat16), random_ids(length)
    steps = decoded(model, model.make_cache(), ids, chunk, max_tokens)
    assert {step.logits.dtype for step in steps} == {mx.bfloat16}
    tokens = [step.token for step in steps]
    actual = np.stack([np.array(step.logits.astype(mx.float32)) for step in steps])
    expected = Specification(model).logits([*ids, *tokens[:-1]])[length - 1 :]
    assert tokens == actual.argmax(axis=1).tolist()
    error = np.abs(actual - expected).mean()
    assert error < (BF16_QUANTIZED_MEAN_ERROR if case.is_quantized else BF16_MEAN_ERROR)
