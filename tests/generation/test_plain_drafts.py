"""Drafts, verified by a model quantized unequally, leave its greedy tokens as they are."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_models import ModelCase, Specification, model_cases, unequal_last_layer
from tiny import FAMILIES, random_ids

from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.generation.speculate import Counts, DraftLength, generate_with_drafts
from mlx_mistral.model import Model


def check_drafts(
    case: ModelCase,
    prompt: list[int],
    chunk: int,
    max_tokens: int,
    draft_length: int,
    draft_model: Model | None,
) -> Counts:
    """Assert that drafted tokens, and a second turn over the same cache, match the specification.

    Draft lengths are fixed, since those of `DraftLength` depend on measured times.
    """
    model, counts = case.build(), Counts()
    specification, cache = Specification(model), model.make_cache()
    with mock.patch.object(DraftLength, "choose", return_value=draft_length):
        steps = list(
            generate_with_drafts(
                model,
                prompt,
                cache=cache,
                sampling=Sampling(),
                max_tokens=max_tokens,
                draft_model=draft_model,
                prefill_step_size=chunk,
                counts=counts,
            )
        )
    tokens = [step.token for step in steps]
    assert len(tokens) == counts.tokens == max_tokens
    specification.check_greedy(prompt, tokens, [step.logits for step in steps], case.tolerance)
    ids = [*prompt, *tokens, *random_ids(3, seed=9)]
    second = list(
        generate_ids(
            model,
            ids[cache[0].offset :],
            cache=cache,
            sampling=Sampling(),
            max_tokens=2,
            prefill_step_size=chunk,
        )
    )
    logits = [step.logits for step in second]
    specification.check_greedy(ids, [step.token for step in second], logits, case.tolerance)
    return counts


@settings(max_examples=20, deadline=None)
@given(
    case=model_cases(),
    draft_bits=st.sampled_from([None, 4, 2]),
    chunk=st.sampled_from([2, 4, 8]),
    n_chunks=st.integers(0, 3),
    rest=st.integers(0, 2),
    max_tokens=st.integers(3, 16),
    draft_length=st.sampled_from([1, 3, 7]),
)
def test_drafts_of_a_model_with_other_bits_change_no_token(
    case: ModelCase,
    draft_bits: int | None,
    chunk: int,
    n_chunks: int,
    rest: int,
    max_tokens: int,
    draft_length: int,
) -> None:
    """The draft model has the same weights before quantization, so that drafts are often right."""
    base = None if draft_bits is None else (draft_bits, 32, "affine")
    drafting = ModelCase(family=case.family, seed=case.seed, base=base, is_fused=True).build()
    prompt = random_ids(n_chunks * chunk + rest or 1)
    counts = check_drafts(case, prompt, chunk, max_tokens, draft_length, drafting)
    assert counts.drafted > 0  # else nothing is verified


@settings(max_examples=20, deadline=None)
@given(
    case=model_cases(),
    chunk=st.sampled_from([2, 4, 8]),
    n_chunks=st.integers(3, 6),
    rest=st.integers(0, 2),
    draft_length=st.sampled_from([1, 3, 7]),
)
def test_drafts_of_a_repeated_prompt_change_no_token(
    case: ModelCase, chunk: int, n_chunks: int, rest: int, draft_length: int
) -> None:
    """A prompt that repeats five tokens has an n-gram to draft from at once."""
    length = max(n_chunks * chunk + rest, 12)
    prompt = (random_ids(5) * length)[:length]
    counts = check_drafts(case, prompt, chunk, 12, draft_length, None)
    assert counts.passes >= 1


@pytest.mark.parametrize("family", FAMILIES)
def test_a_right_draft_directly_after_a_last_chunk_of_one_token_is_accepted(family: str) -> None:
    """Drafts of the model itself run past the ends of windows, and all of them hold."""
    case = unequal_last_layer(family)
    drafting = replace(case, is_fused=False).build()
    counts = check_drafts(case, random_ids(9), 4, 24, 3, drafting)
    assert counts.accepted == counts.drafted >= 15
