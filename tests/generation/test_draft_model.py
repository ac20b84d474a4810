"""A smaller model that writes the drafts: the same text, and no slower where it is of no use."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.errors import MlxMistralError
from mlx_mistral.generation import Sampler, Sampling, generate_ids
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.generation.speculate import DraftingDecoder, DraftLength, ModelDrafter
from mlx_mistral.model import Model

PROMPT = random_ids(20)
N = 200


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Ticking:
    """A model whose passes take a while by a clock."""

    def __init__(self, model: Model, clock: Clock, seconds: float) -> None:
        self._model, self._clock, self._seconds = model, clock, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any) -> mx.array:
        self._clock.seconds += self._seconds
        return self._model(*args)


class TimedDecoder(DraftingDecoder):
    """A token takes a second; one that is checked with others a little more."""

    def __init__(self, *args: Any, clock: Clock, **kwargs: Any) -> None:
        super().__init__(*args, now=clock, **kwargs)
        self._clock = clock

    def _read(self, pending: Any) -> int:
        self._clock.seconds += 1.0
        return super()._read(pending)

    def _check(self, fed: list[int]) -> Any:
        self._clock.seconds += 1.0 + 0.03 * len(fed)
        return super()._check(fed)


def decoded(small: Model, seconds: float, model: Model) -> tuple[list[int], float, DraftingDecoder]:
    """The text, what it took after the first token, and who made it."""
    clock = Clock()
    slow: Any = Ticking(small, clock, seconds)
    drafter = ModelDrafter(slow, PROMPT, vocab_size=61)
    lengths = DraftLength(seconds_per_drafted=drafter.begin(clock))
    clock.seconds = 0.0
    cache = model.make_cache()
    logits = prefill(model, mx.array([PROMPT]), cache, step_size=512)
    sampler = Sampler(Sampling(), 61, [PROMPT])
    decoder = TimedDecoder(model, cache, sampler, drafter, lengths=lengths, clock=clock)
    text = [step.token for step in decoder.decode(logits, N)]
    return text, clock.seconds - 1.0, decoder


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(tiny_config(**FAMILIES["mistral-window"]))


@pytest.fixture(scope="module")
def expected(model: Model) -> list[int]:
    steps = generate_ids(model, PROMPT, cache=model.make_cache(), sampling=Sampling(), max_tokens=N)
    return [step.token for step in steps]


@pytest.mark.parametrize("seconds", [0.1, 0.4, 3.0])
def test_a_draft_model_that_is_always_wrong_is_soon_not_asked(
    seconds: float, model: Model, expected: list[int]
) -> None:
    stranger = tiny_model(tiny_config(n_layers=1), seed=5)
    text, took, decoder = decoded(stranger, seconds, model)
    assert text == expected
    assert took < 1.03 * (N - 1)
    assert decoder.counts.drafted < 0.2 * N


def test_a_draft_model_that_is_right_but_as_slow_costs_nothing(
    model: Model, expected: list[int]
) -> None:
    text, took, _ = decoded(model, 1.0, model)
    assert text == expected
    assert took < 1.01 * (N - 1)


def test_a_draft_model_that_is_right_and_fast_is_asked_for_all(
    model: Model, expected: list[int]
) -> None:
    text, took, decoder = decoded(model, 0.05, model)
    assert text == expected
    assert took < 0.4 * (N - 1)
    assert decoder.counts.accepted == decoder.counts.drafted > 0.7 * N


def test_its_drafts_are_what_it_would_write_itself_wherever_it_was_left() -> None:
    small, text = tiny_model(tiny_config()), list(PROMPT)
    drafter = ModelDrafter(small, text, vocab_size=61)
    drafter.begin()
    sampler = Sampler(Sampling(), 61, [text])
    for n, right, more in ((4, 4, 1), (7, 2, 1), (3, 0, 1), (15, 15, 0), (2, 1, 30), (5, 5, 1)):
        steps = generate_ids(
            small, text, cache=small.make_cache(), sampling=Sampling(), max_tokens=n
        )
        draft = drafter.propose(n, sampler)
        assert draft == [step.token for step in steps]
        new = [*draft[:right], *random_ids(more, seed=n)]
        drafter.extend(new)
        text.extend(new)


def test_where_its_positions_end_so_do_its_drafts() -> None:
    small = tiny_model(tiny_config(max_position_embeddings=24))
    drafter = ModelDrafter(small, PROMPT, vocab_size=61, context=24)
    drafter.begin()
    assert drafter.match() is not None
    assert len(drafter.propose(7, Sampler(Sampling(), 61, [PROMPT]))) == 4
    drafter.extend(random_ids(4))
    assert drafter.match() is None


def test_a_draft_model_of_another_vocabulary_is_refused() -> None:
    with pytest.raises(MlxMistralError, match="same tokenizer"):
        ModelDrafter(tiny_model(tiny_config()), [1], vocab_size=62)
