"""Sequences that join and leave a batch of a model quantized unequally match the specification."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixed_models import ModelCase, Specification, model_cases, unequal_last_layer
from tiny import FAMILIES, random_ids

from mlx_mistral.generation import BatchGenerator

Request = dict[str, int]
"""The step at which a prompt is inserted, its length, the tokens after it, and after how many of
them it is removed."""

requests = st.fixed_dictionaries(
    {
        "step": st.integers(0, 5),
        "length": st.integers(1, 18),
        "max_tokens": st.integers(1, 8),
        "remove_after": st.integers(1, 12),
    }
)


def check_requests(case: ModelCase, requests: list[Request], **options: Any) -> None:
    """Assert that every request gets the tokens that the specification gives to it alone."""
    model = case.build()
    batch, specification = BatchGenerator(model, **options), Specification(model)
    prompts = [random_ids(request["length"], seed=i) for i, request in enumerate(requests)]
    order = sorted(range(len(requests)), key=lambda i: requests[i]["step"])
    generated: dict[int, list[int]] = {}
    request_of: dict[int, int] = {}
    step = 0
    while order or batch:
        while order and requests[order[0]]["step"] <= step:
            i = order.pop(0)
            batch_id = batch.insert(prompts[i], max_tokens=requests[i]["max_tokens"])
            request_of[batch_id], generated[i] = i, []
        for new in batch.next():
            i = request_of[new.id]
            generated[i].append(new.token)
            if len(generated[i]) == requests[i]["remove_after"]:
                batch.remove(new.id)
        step += 1
    for i, request in enumerate(requests):
        assert len(generated[i]) == min(request["max_tokens"], request["remove_after"])
        specification.check_greedy(prompts[i], generated[i], None, case.tolerance)


@settings(max_examples=20, deadline=None)
@given(
    case=model_cases(),
    requests=st.lists(requests, min_size=1, max_size=5),
    max_batch=st.integers(1, 4),
    chunk=st.sampled_from([1, 4, 7, 512]),
)
def test_requests_join_and_leave_a_batch(
    case: ModelCase, requests: list[Request], max_batch: int, chunk: int
) -> None:
    check_requests(case, requests, max_batch=max_batch, prefill_step_size=chunk)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_with_a_last_chunk_of_one_token_are_decoded_together(family: str) -> None:
    lengths = [(0, 9), (0, 13), (1, 1), (2, 17), (3, 5)]
    requests = [
        {"step": step, "length": length, "max_tokens": 7, "remove_after": 4 + step}
        for step, length in lengths
    ]
    check_requests(unequal_last_layer(family), requests, max_batch=4, prefill_step_size=8)
