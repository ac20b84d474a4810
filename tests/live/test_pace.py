"""Chunks grow as long as a layer of one is quick, and shrink where it is not."""

from __future__ import annotations

import pytest

from mlx_mistral.live.pace import FIRST, LARGEST, LAYER_SECONDS, SMALLEST, Pace


class Machine:
    """Reads chunks at a speed of its own."""

    def __init__(self, seconds_per_token_of_a_layer: float, n_layers: int = 4) -> None:
        self.seconds, self.n_layers = seconds_per_token_of_a_layer, n_layers
        self.time, self.done = 0.0, 0
        self.pace = Pace(lambda: self.time)
        self.chunks: list[int] = []

    def read(self, n_chunks: int, last: int | None = None) -> None:
        self.done = 0
        self.pace.read(0)
        for i in range(n_chunks):
            size = self.pace.chunk()
            size = min(size, last) if last and i == n_chunks - 1 else size
            self.chunks.append(size)
            for _ in range(self.n_layers):
                self.pace.before_layer()
                self.time += size * self.seconds
            self.done += size
            self.pace.read(self.done)


def test_a_quick_machine_soon_reads_the_largest_chunks() -> None:
    machine = Machine(1e-7)
    machine.read(4)
    assert machine.chunks == [FIRST, 4 * FIRST, LARGEST, LARGEST]


@pytest.mark.parametrize("speed", [3e-5, 1e-4, 3e-4, 9e-4])
def test_no_chunk_but_the_first_takes_longer_than_it_may(speed: float) -> None:
    machine = Machine(speed)
    machine.read(6)
    for size in machine.chunks[1:]:
        assert size == SMALLEST or size * speed <= LAYER_SECONDS
    for size in machine.chunks[2:]:
        assert size == LARGEST or 2 * size * speed > LAYER_SECONDS
    assert machine.pace.seconds_per_token == pytest.approx(speed * machine.n_layers)


def test_the_next_prompt_begins_as_the_last_ended_and_follows_the_load() -> None:
    machine = Machine(1e-4)
    machine.read(4, last=3)
    before = machine.pace.chunk()
    machine.time += 100.0
    machine.read(1)
    assert machine.chunks[-1] == before
    machine.seconds *= 8
    machine.read(2)
    assert machine.chunks[-1] == max(SMALLEST, before // 8)
