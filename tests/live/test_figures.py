"""A reply's figures, by a clock that the test turns."""

from __future__ import annotations

import pytest

from mlx_mistral.live.events import Finished, Progress
from mlx_mistral.live.figures import EVERY_SECONDS, Figures
from tests.live.live_models import asked, live, make, of, tiny, user


class Clock:
    def __init__(self, step: float = 0.0) -> None:
        self.seconds, self.step = 100.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def test_reading_ends_with_the_first_token_and_writing_is_timed_from_there() -> None:
    clock = Clock()
    figures = Figures(1, 7, clock)
    cache = live(tiny("full")).cache(None)
    figures.begin(cache, 50, 10)
    clock.seconds += 2
    figures.read(20)
    assert figures.progress().prefill_tps == pytest.approx(10)
    clock.seconds += 2
    figures.read(40)
    figures.decoded()
    clock.seconds += 1
    figures.decoded()
    figures.decoded()
    told = figures.progress()
    assert (told.prompt_tokens, told.reused_tokens, told.reply_tokens) == (50, 10, 3)
    assert told.prefill_tps == pytest.approx(10)
    assert told.first_token_seconds == pytest.approx(4)
    assert told.decode_tps == pytest.approx(2)
    assert told.memory_limit_bytes == 7


def test_before_anything_is_read_the_figures_are_zero() -> None:
    told = Figures(1, 0, Clock()).progress()
    assert told.first_token_seconds is None
    assert (told.prefill_tps, told.decode_tps, told.cache_tokens, told.cache_bytes) == (0, 0, 0, 0)


def test_progress_comes_a_few_times_a_second_and_with_the_end() -> None:
    step = EVERY_SECONDS / 4
    told = make(live(tiny("full")), asked(user("x"), max_tokens=40), now=Clock(step))
    n_moments = len(of(Progress, told))
    assert 5 <= n_moments <= 20
    assert isinstance(told[-1], Finished)
    assert told[-1].progress.reply_tokens == 40
    assert told[-1].progress.cache_bytes > 0
