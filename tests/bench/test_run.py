"""Programs take turns, on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence

from mlx_mistral.bench.cases import Case, cases_for
from mlx_mistral.bench.program import Trial
from mlx_mistral.bench.run import run_cases


class Recorder:
    """A program that writes down what is asked of it."""

    vocab_size = 50

    def __init__(self, name: str, log: list[str], *, held_bytes: int = 0) -> None:
        self.name = name
        self.held_bytes = held_bytes
        self.log = log
        self.fills: list[tuple[int, bool]] = []
        self.prompts: list[list[list[int]]] = []

    def fill(self, ids: Sequence[int], *, drawn: bool = False) -> None:
        self.fills.append((len(ids), drawn))

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        self.log.append(self.name)
        self.prompts.append([list(prompt) for prompt in prompts])
        seconds = float(len(self.prompts))
        return Trial(first_seconds=seconds, decode_seconds=seconds, peak_bytes=1000)

    def close(self) -> None:
        pass


def pair(log: list[str]) -> list[Recorder]:
    return [Recorder("a", log, held_bytes=300), Recorder("b", log, held_bytes=200)]


def test_trials_run_in_turn_after_one_that_does_not_count() -> None:
    log: list[str] = []
    results = run_cases(pair(log), [Case(gen_tokens=12)], trials=3)
    assert log == ["a", "b"] * 4
    assert [one.trials_tps for [one] in results] == [(6.0, 4.0, 3.0)] * 2


def test_all_read_the_same_tokens_and_every_text_of_a_batch_is_another() -> None:
    a, b = pair([])
    run_cases([a, b], [Case(prompt_tokens=9, batch=3)], trials=1)
    assert a.prompts == b.prompts
    first = a.prompts[0]
    assert [len(prompt) for prompt in first] == [9, 9, 9]
    assert len({tuple(prompt) for prompt in first}) == 3
    assert all(0 <= token < 50 for prompt in first for token in prompt)


def test_a_depth_is_filled_once_for_all_its_tests_and_trials() -> None:
    a = Recorder("a", [])
    cases = cases_for(prompt_tokens=[4], gen_tokens=[2, 3], depths=[0, 20], batches=[1])
    run_cases([a], cases, trials=2, drawn=True)
    assert a.fills == [(0, True), (20, True)]
    assert {len(prompt) for [prompt] in a.prompts} == {1, 4}


def test_a_batch_behind_text_reads_it_as_part_of_its_prompts() -> None:
    a = Recorder("a", [])
    run_cases([a], [Case(gen_tokens=2, depth=20, batch=2)], trials=1)
    assert a.fills == [(0, False)]
    assert [len(prompt) for prompt in a.prompts[0]] == [21, 21]


def test_what_others_hold_is_not_counted_as_a_programs_memory() -> None:
    results = run_cases(pair([]), [Case(gen_tokens=2)], trials=1)
    assert [one.peak_memory_bytes for [one] in results] == [800, 700]


def test_a_program_in_a_process_of_its_own_shares_nothing() -> None:
    own = [Recorder("a", [], held_bytes=300), Recorder("b", [])]
    results = run_cases(own, [Case(gen_tokens=2)], trials=1)
    assert [one.peak_memory_bytes for [one] in results] == [1000, 1000]
