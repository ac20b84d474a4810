"""Drafts change how many tokens a pass makes, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Any

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.select import active_backend
from mlx_mistral.cache import KVCache
from mlx_mistral.errors import CheckpointError
from mlx_mistral.generation import Sampler, Sampling, generate_ids, replay
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.generation.speculate import (
    DraftingDecoder,
    DraftLength,
    ModelDrafter,
    NgramDrafter,
)
from mlx_mistral.model import Model

_models: dict[str, Model] = {}
SAMPLINGS = (
    Sampling(),
    Sampling(temp=0.9, seed=3),
    Sampling(temp=0.9, top_p=0.8, seed=4),
    Sampling(temp=0.7, repetition_penalty=1.3, seed=5),
    Sampling(repetition_penalty=1.5),
)


def model_of(family: str) -> Model:
    if family not in _models:
        _models[family] = tiny_model(tiny_config(**FAMILIES[family]))
    return _models[family]


def plain(
    model: Model, prompt: list[int], n: int, sampling: Sampling, kv_bits: int | None = None
) -> tuple[list[int], list[KVCache]]:
    cache = model.make_cache(kv_bits=kv_bits)
    steps = generate_ids(model, prompt, cache=cache, sampling=sampling, max_tokens=n)
    return [step.token for step in steps], cache


class Fixed(DraftLength):
    """Always drafts; the times of a test say nothing."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self._n = n

    def choose(self, match: int) -> int:
        return self._n


class AsManyTimes(Fixed):
    """Drafts three tokens, so many times, after a few plain passes."""

    def __init__(self, times: int) -> None:
        super().__init__(3)
        self._times = times

    def choose(self, match: int) -> int:
        return self._n if self._times and len(self._plain) > 2 else 0

    def checked(self, *args: Any, **kwargs: Any) -> None:
        super().checked(*args, **kwargs)
        self._times -= 1


class Oracle:
    """Knows the text, and is wrong about some of its tokens."""

    def __init__(self, text: Sequence[int], wrong_every: int) -> None:
        self._text, self._place, self._wrong_every = list(text), 0, wrong_every
        self._random = Random(0)

    def extend(self, tokens: Sequence[int]) -> None:
        self._place += len(tokens)

    def match(self) -> int | None:
        return None if self._random.random() < 0.2 else 3

    def guess(self) -> int | None:
        return None

    def propose(self, n: int, sampler: Sampler) -> list[int]:
        told = self._text[self._place : self._place + n]
        wrong = self._random.randrange(self._wrong_every) if self._wrong_every else n
        return [token if i != wrong else (token + 1) % 61 for i, token in enumerate(told)]


def drafting(
    model: Model,
    prompt: list[int],
    sampling: Sampling,
    drafter: object,
    lengths: DraftLength,
    kv_bits: int | None = None,
) -> tuple[DraftingDecoder, mx.array, list[KVCache]]:
    cache = model.make_cache(kv_bits=kv_bits)
    logits = prefill(model, mx.array([prompt]), cache, step_size=512)
    sampler = Sampler(sampling, model.config.vocab_size, [prompt])
    decoder = DraftingDecoder(model, cache, sampler, drafter, lengths=lengths)  # type: ignore[arg-type]
    return decoder, logits, cache


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_text_is_that_of_plain_decoding(family: str, sampling: Sampling) -> None:
    model, prompt = model_of(family), random_ids(9)
    expected, _ = plain(model, prompt, 30, sampling)
    drafter = Oracle(expected, wrong_every=5)
    decoder, logits, _ = drafting(model, prompt, sampling, drafter, Fixed(4))
    drawn = list(decoder.decode(logits, 30))
    assert [one.token for one in drawn] == expected
    assert [one.is_last for one in drawn] == [False] * 29 + [True]
    assert decoder.counts.passes < 29
    assert decoder.counts.accepted == sum(one.from_draft for one in drawn) > 0


@pytest.mark.parametrize("kv_bits", [None, 8, 4])
@pytest.mark.parametrize("window", [None, 6, 40])
@pytest.mark.parametrize("sampling", SAMPLINGS[:2], ids=str)
def test_every_kind_of_cache_is_rewound(
    kv_bits: int | None, window: int | None, sampling: Sampling
) -> None:
    """Growing past the first buffer's room, and rings that wrap, some with drafts across it."""
    changes = {} if window is None else {"sliding_window": window}
    model = tiny_model(tiny_config(n_layers=2, head_dim=32, **changes))
    prompt, n = random_ids(30), 60
    expected, _ = plain(model, prompt, n, sampling, kv_bits)
    drafter = Oracle(expected, wrong_every=5)
    decoder, logits, cache = drafting(model, prompt, sampling, drafter, Fixed(7), kv_bits)
    assert [one.token for one in decoder.decode(logits, n)] == expected
    assert decoder.counts.accepted > 15
    assert [one.kv_bits for one in cache] == [kv_bits] * 2


@settings(max_examples=40, deadline=None)
@given(
    family=st.sampled_from(["mistral", "mistral-window", "ministral", "mixtral-window"]),
    prompt=st.integers(1, 20),
    budget=st.integers(1, 24),
    taken=st.integers(0, 24),
    length=st.integers(1, 16),
    wrong_every=st.integers(0, 6),
)
def test_wherever_it_is_left_the_caches_go_on_like_plain_ones(
    family: str, prompt: int, budget: int, taken: int, length: int, wrong_every: int
) -> None:
    model, ids = model_of(family), random_ids(prompt, seed=1)
    expected, _ = plain(model, ids, budget + 6, Sampling())
    drafter = Oracle(expected, wrong_every)
    decoder, logits, cache = drafting(model, ids, Sampling(), drafter, Fixed(length))
    steps = decoder.decode(logits, budget)
    text = [step.token for step in islice(steps, taken)]
    steps.close()
    assert text == expected[: len(text)]
    held = cache[0].offset - prompt
    assert {one.offset for one in cache} == {prompt + held}
    assert len(text) - 1 <= held <= len(text)
    # The text goes on from what the caches hold.
    rest = [*text, expected[len(text)]][held:] if text else [ids[-1]]
    if not text:
        for one in cache:
            one.trim(one.offset - prompt + 1)
    more = generate_ids(model, rest, cache=cache, sampling=Sampling(), max_tokens=4)
    after = len(text) + 1 if text else 0
    assert [step.token for step in more] == expected[after : after + 4]


def test_a_text_that_was_there_before_takes_fewer_passes_than_tokens() -> None:
    model, prompt = model_of("mistral-window"), random_ids(5)
    expected, _ = plain(model, prompt, 60, Sampling())
    drafter = NgramDrafter([*prompt, *expected, *prompt])
    decoder, logits, _ = drafting(model, prompt, Sampling(), drafter, Fixed(8))
    assert [one.token for one in decoder.decode(logits, 60)] == expected
    assert decoder.counts.passes < 10


@pytest.mark.skipif(
    not active_backend().can_compile(), reason="MLX compiles nothing on this machine"
)
@pytest.mark.parametrize("n_drafts", [3, 12])
def test_a_length_is_traced_when_it_comes_often_and_plain_passes_once(
    n_drafts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A ring is as wide between drafts as without them, so that its trace goes on to serve."""
    traced: list[int] = []
    make = replay._pass

    def noted(compute: Any, forms: Any, *rest: Any) -> Any:
        traced.append(forms[0].n_new)
        return make(compute, forms, *rest)

    monkeypatch.setattr(replay, "_pass", noted)
    model, prompt = model_of("mistral-window"), random_ids(20)
    expected, _ = plain(model, prompt, 60, Sampling())
    traced.clear()
    drafter, lengths = Oracle(expected, wrong_every=3), AsManyTimes(n_drafts)
    decoder, logits, _ = drafting(model, prompt, Sampling(), drafter, lengths)
    assert [one.token for one in decoder.decode(logits, 60)] == expected
    assert sorted(traced) == [1] + [4] * (n_drafts == 12)


def test_damaged_weights_are_told_of_in_a_checking_pass_too() -> None:
    model = tiny_model(tiny_config())
    decoder, logits, _ = drafting(model, [1, 2], Sampling(), Oracle([5] * 9, 0), Fixed(4))
    model.model.norm.weight = model.model.norm.weight * float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        list(decoder.decode(logits, 6))


def test_a_draft_is_what_followed_the_longest_agreement() -> None:
    drafter = NgramDrafter([7, 1, 2, 5, 6, 3, 9, 1, 2, 5, 6, 4, 8, 7, 1, 2, 5, 6])
    assert drafter.match() == 5  # 7 1 2 5 6, not the later 1 2 5 6
    assert drafter.propose(3) == [3, 9, 1]
    drafter.extend([3])
    assert drafter.match() == 6
    assert drafter.propose(2) == [9, 1]


def test_nothing_is_drafted_without_an_agreement_of_four() -> None:
    for text in ([], [1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 1, 2, 3]):
        assert NgramDrafter(text).match() is None
    assert NgramDrafter([1, 2, 3, 4, 5, 1, 2, 3, 4]).match() == 4


def test_a_loop_is_drafted_as_far_as_asked() -> None:
    drafter = NgramDrafter([5, 1, 2, 3, 1, 2, 3, 1, 2, 3])
    assert drafter.match() == 6
    assert drafter.propose(8) == [1, 2, 3, 1, 2, 3, 1, 2]


def test_a_copy_with_a_word_changed_is_taken_up_again() -> None:
    source = list(range(10, 50))
    drafter = NgramDrafter([*source, 1, *source[:20]])
    assert drafter.match() == 16
    drafter.extend([99])  # in place of 30
    assert drafter.match() == 0
    assert drafter.propose(3) == [31, 32, 33]
    drafter.extend([31])
    assert drafter.match() is not None
    assert drafter.propose(2) == [32, 33]


def test_a_source_is_given_up_where_nothing_agrees_any_more() -> None:
    source = list(range(10, 50))
    drafter = NgramDrafter([*source, 1, *source[:20], 90, 91, 92, 93])
    assert drafter.match() is None


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
@pytest.mark.parametrize("family", ["mistral", "mistral-window"])
def test_a_smaller_model_drafts_the_same_text(family: str, sampling: Sampling) -> None:
    model, prompt = model_of(family), random_ids(40)
    expected, _ = plain(model, prompt, 40, sampling)
    for small, holds in ((model, True), (tiny_model(tiny_config(n_layers=1)), False)):
        drafter = ModelDrafter(small, prompt, vocab_size=61)
        decoder, logits, _ = drafting(model, prompt, sampling, drafter, Fixed(4))
        assert [one.token for one in decoder.decode(logits, 40)] == expected
        if holds:  # the model itself draws with the same keys: nothing is drafted in vain
            assert decoder.counts.accepted == decoder.counts.drafted > 25
