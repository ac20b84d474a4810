"""What is in memory, what goes, what is read: the slots between the files and the model."""

from __future__ import annotations

import gc
import threading
import weakref
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_mistral.checkpoint import load_model
from mlx_mistral.checkpoint.slabs import Raw
from mlx_mistral.errors import CheckpointError, MemoryBudgetError
from mlx_mistral.streaming import StreamedModel, load_streaming
from mlx_mistral.streaming.eviction import PRIOR, Worth
from mlx_mistral.streaming.library import ExpertLibrary, Part
from mlx_mistral.streaming.slot import ExpertForm, Slot
from tests.checkpoint.models import EXPERTS, LAYERS, VOCAB, hf_weights, write_hf
from tests.streaming.folders import FOLDERS
from tests.tiny import random_ids

ALL = LAYERS * EXPERTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FOLDERS["mlx-affine-4"](tmp_path_factory.mktemp("streaming") / "model")


def feed(model: StreamedModel, n: int, seed: int = 0) -> None:
    mx.eval(model(mx.array([random_ids(n, VOCAB, seed)])))


def slots_alive() -> int:
    gc.collect()
    return sum(isinstance(one, Slot) for one in gc.get_objects())


@pytest.mark.parametrize("kind", ["mlx-affine-4", "mlx-mixed", "hf-bf16-sharded"])
def test_slots_never_take_more_than_the_budget(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted where they are made and freed, not by the stream's own books."""
    held, peak = 0, 0
    make = Slot.__init__

    def count(self: Slot, form: ExpertForm) -> None:
        nonlocal held, peak
        make(self, form)
        n_bytes = sum(rows.nbytes for rows in self.rows)
        held += n_bytes
        peak = max(peak, held)
        weakref.finalize(self, freed, n_bytes)

    def freed(n_bytes: int) -> None:
        nonlocal held
        held -= n_bytes

    monkeypatch.setattr(Slot, "__init__", count)
    folder = FOLDERS[kind](tmp_path / kind)
    model = load_streaming(folder, slots=3)
    for seed, n in enumerate((1, 9, 1, 1, 2, 30, 1)):
        feed(model, n, seed)
    largest = model.streaming.expert_bytes
    assert largest < peak <= 3 * largest == model.streaming.budget_bytes


def test_a_chunk_reads_each_expert_at_most_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, int]] = []
    read = ExpertLibrary._read

    def note(self: ExpertLibrary, part: Part, rows: Raw) -> int:
        name = part.slab.parameter.name
        seen.append((int(name.split(".")[2]), part.slab.expert, part.field))
        return read(self, part, rows)

    monkeypatch.setattr(ExpertLibrary, "_read", note)
    for slots in (2, 3, ALL - 1):
        model = load_streaming(folder, slots=slots)
        seen.clear()
        feed(model, 40)
        assert len(seen) == len(set(seen)) == ALL * 9
        assert model.streaming.stats.bytes_read == sum(
            form.nbytes * EXPERTS for form in model.streaming._library.forms
        )


def test_with_room_for_nearly_all_little_is_read_twice(folder: Path) -> None:
    model = load_streaming(folder, slots=ALL - 1, read_ahead=False)
    feed(model, 60)
    stats = model.streaming.stats
    assert len(model.streaming.resident) == ALL - 1 == model.streaming.slots
    assert stats.misses == ALL
    stats.reset()
    feed(model, 60, seed=1)
    assert stats.hits >= ALL - 2, "one is missing, and another may make room for it"


def test_with_room_for_all_the_model_is_the_resident_one(folder: Path) -> None:
    model, resident = load_streaming(folder, slots=10 * ALL), load_model(folder)
    assert model.is_traceable
    assert not load_streaming(folder, slots=ALL - 1).is_traceable
    assert model.reserved_bytes == 0
    assert not model.streaming.resident
    shapes = ({n: one.shape for n, one in tree_flatten(each.parameters())}
              for each in (model, resident))  # fmt: skip
    assert next(shapes) == next(shapes)
    model.streaming.close()
    feed(model, 60)
    assert model.streaming.stats.chosen == 0


def test_only_what_the_next_layer_may_want_is_read_ahead(folder: Path) -> None:
    ahead, not_ahead = load_streaming(folder, slots=4), load_streaming(
        folder, budget_bytes=4 * load_streaming(folder, slots=2).streaming.expert_bytes,
        read_ahead=False,
    )  # fmt: skip
    for model in (ahead, not_ahead):
        for seed in range(20):
            feed(model, 1, seed)
    assert not_ahead.streaming.stats.read_ahead == 0
    assert ahead.streaming.stats.read_ahead > 0
    assert ahead.streaming.stats.misses < not_ahead.streaming.stats.misses


def test_a_router_like_this_one_is_foreseen_exactly(folder: Path, tmp_path: Path) -> None:
    """Where the first layer's experts add nothing, the next router sees what was guessed."""
    weights = hf_weights(moe=True)
    for name in weights:
        if ".layers.0.block_sparse_moe.experts." in name or ".layers.1.self_attn.o_proj" in name:
            weights[name] = np.zeros_like(weights[name])
    model = load_streaming(write_hf(tmp_path / "foreseen", weights, moe=True), slots=4)
    for seed in range(12):
        feed(model, 1, seed)
        layers = [layer for layer, _ in model.streaming.resident]
        assert layers.count(1) >= 2
    stats = model.streaming.stats
    first_layer = stats.chosen // LAYERS
    assert stats.misses <= first_layer


def test_what_is_used_often_and_soon_stays() -> None:
    worth = Worth(4, 3)
    worth.note(0, {0: 1.0, 1: 1.0})
    worth.note(1, {0: 1.0})
    worth.note(0, {0: 1.0})
    by_worth = sorted([(0, 0), (0, 1), (0, 2)], key=worth.of)
    assert by_worth == [(0, 2), (0, 1), (0, 0)]
    # Layer 1 is next, layer 0 last: an expert never used there waits as long as four turns.
    assert worth.of((1, 2)) == PRIOR
    assert worth.of((2, 2)) == PRIOR / 2
    assert worth.of((0, 2)) == PRIOR / 4
    assert worth.of((1, 0)) > worth.of((0, 0))


def test_the_least_valuable_expert_goes_first(folder: Path) -> None:
    stream = load_streaming(folder, slots=3, read_ahead=False).streaming
    for experts in ([0, 1], [0, 2], [0, 2]):
        stream.turn(0, dict.fromkeys(experts, 1.0))
        for expert in experts:
            assert stream.begin((0, expert))
            stream.take((0, expert))
        stream.release([(0, expert) for expert in experts])
    assert stream.resident == [(0, 0), (0, 1), (0, 2)]
    stream.turn(0, {3: 1.0})
    assert stream.begin((0, 3))
    assert stream.resident == [(0, 0), (0, 2), (0, 3)]


def test_what_is_kept_does_not_go(folder: Path) -> None:
    stream = load_streaming(folder, slots=2).streaming
    assert stream.begin((0, 0))
    assert stream.begin((0, 1))
    assert not stream.begin((0, 2))
    assert not stream.begin((1, 0), guessed=[(1, 0)])
    stream.release([(0, 1)])
    assert stream.begin((1, 0), guessed=[(1, 0), (1, 1)])
    assert not stream.begin((1, 1), guessed=[(1, 0), (1, 1)])
    assert stream.resident == [(0, 0), (1, 0)]


def test_a_wrong_guess_is_called_off_and_its_room_used(folder: Path) -> None:
    stream = load_streaming(folder, slots=2).streaming
    gate = threading.Event()
    blocked = [stream._pool.submit(gate.wait) for _ in range(4)]
    assert stream.begin((1, 3), guessed=[(1, 3)])
    assert stream.turn(1, {0: 1.0, 2: 1.0}) == [0, 2]
    assert stream.resident == []
    assert stream.begin((1, 0))
    assert stream.begin((1, 2))
    gate.set()
    assert all(job.result() for job in blocked)
    stream.take((1, 0))
    stream.take((1, 2))
    assert stream.resident_bytes == stream.budget_bytes
    read = stream.stats.bytes_read
    assert read == 2 * stream.expert_bytes, "what was called off was not read"


def test_threads_end_with_the_model(folder: Path) -> None:
    before = set(threading.enumerate())
    model = load_streaming(folder, slots=3)
    feed(model, 4)
    readers = set(threading.enumerate()) - before
    assert readers
    del model
    gc.collect()
    assert not any(thread.is_alive() for thread in readers)
    assert slots_alive() == 0


def test_a_closed_stream_says_so(folder: Path) -> None:
    model = load_streaming(folder, slots=3)
    feed(model, 2)
    model.streaming.close()
    model.streaming.close()
    with pytest.raises(CheckpointError, match="closed; load it again"):
        feed(model, 2)


@pytest.mark.parametrize("options", [{}, {"slots": 4, "budget_bytes": 10**9}, {"slots": 1},
                                     {"slots": -3}, {"budget_bytes": 100}])  # fmt: skip
def test_a_budget_that_is_none_is_refused(folder: Path, options: dict[str, int]) -> None:
    threads = threading.active_count()
    with pytest.raises(MemoryBudgetError):
        load_streaming(folder, **options)
    assert threading.active_count() == threads


def test_a_model_without_experts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no experts to stream"):
        load_streaming(write_hf(tmp_path / "dense", hf_weights()), slots=2)


def test_a_right_guess_that_is_still_being_read_goes_on(folder: Path) -> None:
    stream = load_streaming(folder, slots=3).streaming
    gate = threading.Event()
    for _ in range(4):
        stream._pool.submit(gate.wait)
    assert stream.begin((1, 3), guessed=[(1, 3), (1, 1)])
    assert stream.begin((1, 1), guessed=[(1, 3), (1, 1)])
    assert stream.turn(1, {0: 1.0, 3: 1.0}) == [3, 0]
    assert stream.resident == [(1, 3)]
    assert (stream.stats.hits, stream.stats.late, stream.stats.misses) == (0, 1, 1)
    gate.set()
    stream.take((1, 3))
