"""Sizes of a prompt's chunks: tried in turn, chosen by more than noise, kept for later runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral import tuning
from mlx_mistral.bench.chunks import TriedChunk, best_chunk, keep, sizes_for, try_chunks
from mlx_mistral.bench.program import Trial
from tests.tiny import FAMILIES, tiny_config

DENSE, MIXTURE = tiny_config(), tiny_config(**FAMILIES["mixtral"])


class Machine:
    """Stands in for a loaded model: takes as long as its table says."""

    vocab_size = 61

    def __init__(self, seconds: dict[int, float]) -> None:
        self.seconds, self.asked, self.size = seconds, [], 0

    def having(self, *, prefill_step_size: int) -> Machine:
        self.size = prefill_step_size
        return self

    def run(self, prompts: Sequence[Sequence[int]], gen_tokens: int) -> Trial:
        assert gen_tokens == 0
        self.asked.append((self.size, len(prompts[0])))
        return Trial(
            first_seconds=self.seconds[self.size], decode_seconds=0, peak_bytes=10 * self.size
        )


def tried(**speeds: Sequence[float]) -> list[TriedChunk]:
    return [
        TriedChunk(tokens=int(name[1:]), rounds_tps=tuple(tps), peak_memory_bytes=0)
        for name, tps in speeds.items()
    ]


def test_sizes_take_turns_and_the_first_round_does_not_count() -> None:
    machine = Machine({128: 4.0, 512: 2.0})
    found = try_chunks(machine, [128, 512], 600, rounds=2)  # type: ignore[arg-type]
    assert machine.asked == 3 * [(128, 600), (512, 600)]
    assert [(one.tokens, one.rounds_tps) for one in found] == [
        (128, (150.0, 150.0)), (512, (300.0, 300.0)),
    ]  # fmt: skip
    assert [one.peak_memory_bytes for one in found] == [1280, 5120]


def test_the_usual_size_stays_unless_another_is_ahead_by_more_than_noise() -> None:
    assert best_chunk(tried(t256=[11, 9], t512=[10, 9.9], t1024=[12, 8.2]), 512).tokens == 512
    assert best_chunk(tried(t256=[5, 5.1], t512=[10, 9.9], t1024=[12, 12.1]), 512).tokens == 1024


def test_of_sizes_that_are_as_fast_the_one_that_holds_least_is_taken() -> None:
    every = tried(t128=[5, 5.1], t512=[5, 5.1], t1024=[12, 12.3], t2048=[12.1, 12.3])
    assert best_chunk(every, 512).tokens == 1024


def test_sizes_are_those_that_the_prompt_fills_and_memory_holds() -> None:
    assert sizes_for(DENSE, 1100, lambda size: True) == [128, 256, 512, 1024]
    assert sizes_for(DENSE, 5000, lambda size: size <= 256) == [128, 256, 512]
    assert sizes_for(MIXTURE, 300, lambda size: True) == [128, 256, 1024]


def test_what_is_kept_is_used_and_what_was_kept_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path / "new"))
    place = keep(DENSE, mx.float32, 256)
    keep(MIXTURE, mx.float32, 2048)
    keep(DENSE, mx.bfloat16, 128)
    assert len(json.loads(place.read_text())) == 3
    assert tuning.prefill_tokens(DENSE, "float32") == 256
    assert tuning.prefill_tokens(MIXTURE, "float32") == 2048
    assert tuning.prefill_tokens(DENSE, "bfloat16") == 128
