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


class Decoding:
    """Follows the calls that a decoder makes. held_up: passes that took 50 times as long."""

    def __init__(
        self, text: list[int], prompt: list[int], prices: Prices, held_up: tuple[int, ...] = ()
    ) -> None:
        self.text, self.prices, self.held_up = text, prices, held_up
        self.drafter, self.lengths = NgramDrafter(prompt), DraftLength()
        self.out, self.place = Outcome(len(text)), 0

    def run(self) -> Outcome:
        while self.place < len(self.text):
            match, n = self.wanted()
            if match is not None:
                right = self.drafter.guess() == self.text[self.place]
                self.lengths.watched(match, was_right=right)
            self.lengths.decoded(self.passed(1.0, 1), is_followed=n == 0)
            if n and self.drafted():
                self.lengths.decoded(self.passed(1.0 + self.prices.leaving, 1))
        return self.out

    def drafted(self) -> bool:
        """Checks drafts for as long as they pay; whether a token comes after them."""
        before = self.out.seconds - self.place
        while (wanted := self.wanted())[1]:
            match, n = wanted
            draft = self.drafter.propose(n)
            pairs = zip(draft, self.text[self.place :], strict=False)
            right = next((i for i, (a, b) in enumerate(pairs) if a != b), n)
            seconds = self.passed(self.prices.check(n), right + 1)
            self.lengths.checked(match or 0, n, right, seconds)
            self.out.lengths[n] += 1
        lost = self.out.seconds - self.place - before + self.prices.leaving
        self.out.worst = max(self.out.worst, lost)
        return self.place < len(self.text)

    def wanted(self) -> tuple[int | None, int]:
        match, left = self.drafter.match(), len(self.text) - self.place
        if match is None or left < 2:
            return None, 0
        return match, min(self.lengths.choose(match), left - 1)

    def passed(self, seconds: float, n_new: int) -> float:
        """What the clock tells of a pass that made so many tokens."""
        self.out.passes += 1
        self.out.seconds += seconds
        self.drafter.extend(self.text[self.place : self.place + n_new])
        self.place += n_new
        return seconds * (50 if self.out.passes in self.held_up else 1)


def decoded(
    text: list[int], prompt: list[int], prices: Prices, held_up: tuple[int, ...] = ()
) -> Outcome:
    return Decoding(text, prompt, prices, held_up).run()


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
    assert out.seconds <= ALLOWED * n + 0.5 + 2 * out.worst


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


def test_returning_costs_what_tokens_around_drafts_took_longer_on_balance() -> None:
    lengths = DraftLength()
    for _ in range(9):
        lengths.decoded(1.0)
    lengths.decoded(0.2, is_followed=False)
    lengths.checked(8, 3, 1, 2.0)
    lengths.decoded(2.1)
    assert lengths._return_cost == pytest.approx(0.3)
    assert lengths._lost == pytest.approx(0.3)


def test_a_drafter_as_slow_as_the_model_is_never_asked() -> None:
    lengths = DraftLength(seconds_per_drafted=1.0)
    for _ in range(500):
        lengths.decoded(1.0)
        assert lengths.choose(8) == 0
