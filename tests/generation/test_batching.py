"""Texts that join and leave a batch get the tokens that they get alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.select import active_backend
from mlx_mistral.errors import CheckpointError, ContextError, MlxMistralError
from mlx_mistral.generation import BatchGenerator, Sampler, Sampling, generate_ids, replay
from mlx_mistral.generation.batching.sampler import BatchSampler
from mlx_mistral.model import Model, fuse

SAMPLED: dict[str, Any] = {"temp": 1.0, "seed": 11}
CUT: dict[str, Any] = {"temp": 0.8, "top_k": 12, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5}
HEADS = {"head_dim": 32, "n_heads": 2, "n_kv_heads": 1}
"""As small as heads can be that are quantized."""


@cache
def model_of(family: str, window: int | None = None, **changes: Any) -> Model:
    windowed = {} if window is None else {"sliding_window": window}
    model = tiny_model(tiny_config(**{**FAMILIES[family], **windowed, **changes}))
    fuse(model)
    return model


def alone(
    model: Model, prompt: Sequence[int], n: int, kv_bits: int | None = None, **sampling: Any
) -> list[int]:
    layers = model.make_cache(kv_bits=kv_bits)
    steps = generate_ids(model, prompt, cache=layers, sampling=Sampling(**sampling), max_tokens=n)
    return [one.token for one in steps]


def run_out(batch: BatchGenerator) -> dict[int, list[int]]:
    """All tokens of the texts that are left, and that each says once that it ends."""
    made: dict[int, list[int]] = {}
    ended = []
    while batch:
        for new in batch.next():
            made.setdefault(new.id, []).append(new.token)
            ended += [new.id] * new.is_last
    assert sorted(ended) == sorted(made)
    return made


@st.composite
def comings_and_goings(draw: st.DrawFn) -> dict[str, Any]:
    """When each text comes, how long it is, and after how many of its tokens it is removed."""
    texts = st.fixed_dictionaries(
        {
            "comes": st.integers(0, 12),
            "n_prompt": st.integers(1, 20),
            "twin": st.booleans(),
            "n": st.integers(1, 14),
            "leaves": st.none() | st.integers(0, 10),
            "sampling": st.sampled_from([{}, SAMPLED, CUT]),
        }
    )
    return {
        "texts": draw(st.lists(texts, min_size=1, max_size=7)),
        "kind": draw(st.sampled_from([("mistral", None), ("mixtral", 3), ("mistral", 9)])),
        "max_batch": draw(st.integers(1, 5)),
        "chunk": draw(st.sampled_from([1, 4, 7, 512])),
    }


@settings(max_examples=25, deadline=None)
@given(comings_and_goings())
def test_every_text_is_what_it_is_alone(case: dict[str, Any]) -> None:
    model = model_of(*case["kind"])
    batch = BatchGenerator(model, max_batch=case["max_batch"], prefill_step_size=case["chunk"])
    coming = sorted(case["texts"], key=lambda text: text["comes"])
    texts: dict[int, dict[str, Any]] = {}
    made: dict[int, list[int]] = {}
    prompt: list[int] = []
    for time in range(400):
        while coming and coming[0]["comes"] <= time:
            text = coming.pop(0)
            same = text["twin"] and prompt
            prompt = prompt if same else random_ids(text["n_prompt"], seed=len(texts))
            sampling = Sampling(**text["sampling"])
            new_id = batch.insert(prompt, max_tokens=text["n"], sampling=sampling)
            texts[new_id], made[new_id] = {**text, "prompt": prompt}, []
        for new in batch.next():
            made[new.id].append(new.token)
            assert new.is_last == (len(made[new.id]) == texts[new.id]["n"])
        for one, text in texts.items():
            if text["leaves"] is not None and len(made[one]) >= text["leaves"]:
                batch.remove(one)
        if not coming and not batch:
            break
    assert not batch
    for one, text in texts.items():
        n = text["n"] if text["leaves"] is None else min(text["n"], len(made[one]))
        assert made[one] == alone(model, text["prompt"], text["n"], **text["sampling"])[:n]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_decoded_together(family: str) -> None:
    model = model_of(family)
    batch, prompts = BatchGenerator(model, max_batch=3), {}
    for n in (3, 17, 30, 8, 8):
        prompts[batch.insert(random_ids(n, seed=n + len(prompts)), max_tokens=4 + n // 2)] = n
    made = run_out(batch)
    for one, n in prompts.items():
        assert made[one] == alone(model, random_ids(n, seed=n + one), 4 + n // 2)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("kv_bits", [8, 4])
def test_quantized_caches_are_joined_and_left(window: int | None, kv_bits: int) -> None:
    model = model_of("mistral", window, **HEADS)
    batch = BatchGenerator(model, max_batch=2, kv_bits=kv_bits)
    lengths = (4, 12, 9)
    for n in lengths:
        batch.insert(random_ids(n, seed=n), max_tokens=n)
    made = run_out(batch)
    for one, n in enumerate(lengths):
        assert made[one] == alone(model, random_ids(n, seed=n), n, kv_bits)


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_texts_of_one_prompt_read_it_once(max_batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, prompt = model_of("mistral-window"), random_ids(19)
    expected = [alone(model, prompt, 5, temp=1.0, seed=i) for i in range(8)]
    read: list[tuple[int, int]] = []
    original = type(model.model).__call__

    def call(self: Any, tokens: Any, *rest: Any, **options: Any) -> Any:
        read.append(tokens.shape)
        return original(self, tokens, *rest, **options)

    monkeypatch.setattr(type(model.model), "__call__", call)
    batch = BatchGenerator(model, max_batch=max_batch)
    for seed in range(8):
        batch.insert(prompt, max_tokens=5, sampling=Sampling(temp=1.0, seed=seed))
    made = run_out(batch)
    assert [made[i] for i in range(8)] == expected
    assert [shape for shape in read if shape[1] > 1] == [(1, 19)]


def test_of_two_texts_of_one_prompt_one_ends_at_once() -> None:
    model, prompt = model_of("mistral"), random_ids(7)
    batch = BatchGenerator(model)
    batch.insert(prompt, max_tokens=1)
    batch.insert(prompt, max_tokens=5)
    expected = alone(model, prompt, 5)
    assert run_out(batch) == {0: expected[:1], 1: expected}


def test_memory_shrinks_when_texts_leave() -> None:
    model = model_of("mistral")
    batch = BatchGenerator(model)
    long = batch.insert(random_ids(600), max_tokens=50)
    others = [batch.insert(random_ids(500 - n, seed=n), max_tokens=50) for n in range(3)]
    batch.next()
    full = batch.nbytes
    batch.remove(others.pop())
    batch.next()
    assert batch.nbytes == full * 3 // 4
    batch.remove(long)
    batch.next()
    assert batch.nbytes == full // 2 * 512 // 768
    for one in others:
        batch.remove(one)
    assert batch.nbytes == 0
    assert not batch


def test_a_long_prompt_is_read_between_the_tokens_of_others() -> None:
    model = model_of("mistral")
    batch = BatchGenerator(model, prefill_step_size=8)
    first = batch.insert(random_ids(5), max_tokens=20)
    batch.next()
    second = batch.insert(random_ids(60, seed=1), max_tokens=3)
    told = [[new.id for new in batch.next()] for _ in range(9)]
    assert told == [[first]] * 7 + [[first, second]] * 2


def test_what_is_refused_disturbs_nobody() -> None:
    model = model_of("mistral", max_seq_len=24)
    batch = BatchGenerator(model)
    first = batch.insert(random_ids(6), max_tokens=8)
    batch.next()
    with pytest.raises(ContextError, match="24"):
        batch.insert(random_ids(24))
    with pytest.raises(MlxMistralError, match="id 61"):
        batch.insert([1, 61])
    with pytest.raises(MlxMistralError, match="empty"):
        batch.insert([])
    with pytest.raises(MlxMistralError, match="no text has id 7"):
        batch.remove(7)
    second = batch.insert(random_ids(20, seed=2), max_tokens=50)
    made = run_out(batch)
    assert made[first] == alone(model, random_ids(6), 8)[1:]
    assert made[second] == alone(model, random_ids(20, seed=2), 4)
    batch.remove(first)


def test_each_text_ends_with_its_own_context() -> None:
    """Columns of a batch may pass the context, where a short text joins a long one."""
    model = model_of("mistral")
    batch = BatchGenerator(model, context=12)
    lengths = (10, 3, 7)
    for n in lengths:
        batch.insert(random_ids(n, seed=n), max_tokens=50)
    made = run_out(batch)
    assert [len(made[one]) for one in range(3)] == [12 - n for n in lengths]
    for one, n in enumerate(lengths):
        assert made[one] == alone(model, random_ids(n, seed=n), 12 - n)


def test_progress_counts_the_tokens_of_all_prompts() -> None:
    told: list[tuple[int, int]] = []
    batch = BatchGenerator(
        model_of("mistral"),
        prefill_step_size=8,
        progress=lambda done, total: told.append((done, total)),
    )
    for n in (20, 20, 3):
        batch.insert(random_ids(n, seed=n), max_tokens=1)
    run_out(batch)
    assert told[0] == (0, 43)
    assert told[-1] == (43, 43)
    assert told == sorted(told)


def test_no_tokens_asked_for_are_no_text() -> None:
    batch = BatchGenerator(model_of("mistral"))
    assert batch.insert([1, 2], max_tokens=0) == 0
    assert not batch
    assert batch.next() == []


def test_a_batch_for_no_text_is_refused() -> None:
    with pytest.raises(MlxMistralError, match="batch of 0"):
        BatchGenerator(model_of("mistral"), max_batch=0)


def test_nan_logits_of_a_batch_are_told_and_not_sampled() -> None:
    model = tiny_model(tiny_config())
    model.lm_head.weight[7] = float("nan")
    batch = BatchGenerator(model)
    batch.insert([1, 2])
    with pytest.raises(CheckpointError, match="new token 1 are NaN"):
        batch.next()


def test_ways_of_drawing_differ_by_who_draws_how_and_not_by_seed() -> None:
    def way(*asked: dict[str, Any]) -> object:
        return BatchSampler([(Sampler(Sampling(**one), 20, [[1]]), 0) for one in asked]).way

    assert way({}, SAMPLED, {}) == way({}, {**SAMPLED, "seed": 3}, {})
    others = [way({}, {}, SAMPLED), way({}, CUT, {}), way({}, SAMPLED), way(SAMPLED, {}, {})]
    assert way({}, SAMPLED, {}) not in others


@pytest.mark.skipif(
    not active_backend().can_compile(), reason="MLX compiles nothing on this machine"
)
def test_texts_that_take_the_places_of_others_take_their_traces_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, n_traces = model_of("mistral"), []
    traced = replay._pass
    monkeypatch.setattr(replay, "_pass", lambda *a: n_traces.append(1) or traced(*a))
    for ways in ([{}], [{}, SAMPLED]):
        batch, asked = BatchGenerator(model, max_batch=2), {}
        for n in range(8):
            way = ways[n % 3 % len(ways)]
            one = batch.insert(
                random_ids(5, seed=n), max_tokens=5 + n % 3, sampling=Sampling(**way)
            )
            asked[one] = way
        n_traces.clear()
        made = run_out(batch)
        if len(ways) == 1:
            assert len(n_traces) == 3  # of two at one column, of two apart, of the last alone
        for one, way in asked.items():
            assert made[one] == alone(model, random_ids(5, seed=one), 5 + one % 3, **way)
