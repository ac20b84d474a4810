"""When drafts are made: where they pay, by times that a test gives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.generation.speculate import DraftLength, NgramDrafter

ALLOWED = 1.015


@dataclass(slots=True)
class Prices:
    """What passes take, where a plain one takes 1."""

    per_drafted: float
    """For each drafted token of a pass."""
    trace: float = 0.0
    """Once for each length."""
    leaving: float = 0.0
    """For the first plain pass after drafts."""
    traced: set[int] = field(default_factory=set)

    def check(self, n: int) -> float:
        once = 0.0 if n in self.traced else self.trace
        self.traced.add(n)
        return 1.0 + self.per_drafted * n + once


@dataclass(slots=True)
class Outcome:
    n_tokens: int
    seconds: float = 0.0
    passes: int = 0
    worst: float = 0.0
    """What one run of drafts lost at most."""
    lengths: Counter[int] = field(default_factory=Counter)


GPU = (0.02, 0.2, 0.1)
SMALL_ON_CPU = (0.22, 1.7, 0.8)
ANOTHER_PASS_EACH = (1.0, 0.5, 0.2)


def decoded(
    text: list[int], prompt: list[int], prices: Prices, held_up: tuple[int, ...] = ()
) -> Outcome:
    """Follows the calls that a decoder makes. held_up: passes that took 50 times as long."""
    drafter, lengths, out = NgramDrafter(prompt), DraftLength(), Outcome(len(text))
    place, is_returning, lost = 0, False, 0.0
    while place < len(text):
        match = drafter.match()
        n = min(0 if match is None else lengths.choose(match), len(text) - place - 1)
        out.passes += 1
        factor = 50 if out.passes in held_up else 1
        if match is None or n == 0:
            took = 1.0 + is_returning * prices.leaving
            if match is not None:
                lengths.watched(match, was_right=drafter.guess() == text[place])
            lengths.decoded(factor * took)
            lost, is_returning, n_new = 0.0, False, 1
        else:
            draft = drafter.propose(n)
            right = next((i for i in range(n) if draft[i] != text[place + i]), n)
            took = prices.check(n)
            lengths.checked(match, n, right, factor * took)
            out.lengths[n] += 1
            is_returning, n_new = True, right + 1
        lost += took - n_new
        out.worst = max(out.worst, lost + prices.leaving * is_returning)
        out.seconds += took
        drafter.extend(text[place : place + n_new])
        place += n_new
    return out


def random_text(n: int, vocab_size: int, seed: int) -> list[int]:
    random = Random(seed)
    return [random.randrange(vocab_size) for _ in range(n)]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 500),
    vocab_size=st.integers(2, 40),
    seed=st.integers(0, 1000),
    prices=st.sampled_from([GPU, SMALL_ON_CPU, ANOTHER_PASS_EACH]),
)
def test_text_that_repeats_by_chance_alone_loses_no_more_than_allowed(
    n: int, vocab_size: int, seed: int, prices: tuple[float, float, float]
) -> None:
    prompt, text = random_text(200, vocab_size, seed + 1), random_text(n, vocab_size, seed)
    out = decoded(text, prompt, Prices(*prices))
    assert out.seconds <= ALLOWED * n + 0.3 + 2 * out.worst


@pytest.mark.parametrize("prices", [GPU, SMALL_ON_CPU, ANOTHER_PASS_EACH])
def test_long_random_text_is_within_three_percent(prices: tuple[float, float, float]) -> None:
    for vocab_size in (2, 3, 4, 6, 10, 100):
        for seed in range(3):
            text = random_text(400, vocab_size, seed)
            assert decoded(text, text[::-1], Prices(*prices)).seconds < 1.03 * 400


@pytest.mark.parametrize(("prices", "gain"), [(GPU, 4.0), (SMALL_ON_CPU, 1.8)])
def test_a_short_copy_is_drafted_from_its_beginning(
    prices: tuple[float, float, float], gain: float
) -> None:
    text = random_text(30, 1000, 0)
    start = random_text(20, 1000, 1)
    out = decoded(text, [*start, *text, 7, *start], Prices(*prices))
    assert out.n_tokens / out.passes > 3.5
    assert out.n_tokens / out.seconds > gain


def test_where_a_checked_token_costs_a_whole_pass_copies_are_soon_left_alone() -> None:
    text = random_text(200, 1000, 0)
    out = decoded(text, [*text, 7, *text[:16]], Prices(*ANOTHER_PASS_EACH))
    assert out.lengths.total() <= 3


def test_drafts_grow_as_long_as_they_hold() -> None:
    text = random_text(300, 1000, 0)
    out = decoded(text, [*text, 7, *text[:4]], Prices(*GPU))
    assert out.lengths[15] > 10
    assert out.n_tokens / out.passes > 10


def test_a_length_that_costs_too_much_is_not_taken_again() -> None:
    class Steep(Prices):
        def check(self, n: int) -> float:
            return 12.0 if n > 8 else 1.5

    text = random_text(300, 1000, 0)
    out = decoded(text, [*text, 7, *text[:4]], Steep(0.0))
    assert out.lengths[15] <= 2
    assert out.lengths[7] > 20


def test_guesses_that_fail_unseen_keep_drafts_from_being_made() -> None:
    """Each agreement of four is followed by something else: nothing needs to be tried."""
    lengths = DraftLength()
    for _ in range(20):
        lengths.decoded(1.0)
        lengths.watched(4, was_right=False)
    assert lengths.choose(4) == 0
    for _ in range(30):
        lengths.watched(4, was_right=True)
    assert lengths.choose(4) > 0


@pytest.mark.parametrize("held_up", [(1,), (2,), (3,), (8,), (1, 2, 3)])
def test_passes_that_something_held_up_neither_begin_nor_end_drafts(
    held_up: tuple[int, ...],
) -> None:
    text = random_text(300, 1000, 0)
    usual = decoded(text, [*text, 7, *text[:4]], Prices(*GPU))
    out = decoded(text, [*text, 7, *text[:4]], Prices(*GPU), held_up)
    assert out.passes < usual.passes + 5
    noise = random_text(300, 3, 0)
    assert decoded(noise, noise[::-1], Prices(*SMALL_ON_CPU), held_up).seconds < 1.03 * 300


def test_what_drafts_cost_is_asked_again_after_a_long_time() -> None:
    lengths = DraftLength()
    for _ in range(20):
        lengths.decoded(1.0)
    for n in (3, 7, 15):
        lengths.checked(16, n, n, 30.0)
    for _ in range(60):
        lengths.decoded(1.0)
    assert lengths.choose(16) == 0
    for _ in range(5000):
        lengths.decoded(1.0)
    assert lengths.choose(16) > 0


def test_a_drafter_as_slow_as_the_model_is_never_asked() -> None:
    lengths = DraftLength(seconds_per_drafted=1.0)
    for _ in range(500):
        lengths.decoded(1.0)
        assert lengths.choose(8) == 0
