"""The models that the window lists, told without the Hub until it is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from mlx_mistral.backend.scratch import METAL
from mlx_mistral.checkpoint import resolve
from mlx_mistral.checkpoint.catalog import ALIASES
from mlx_mistral.cli.known_models import KnownModels
from mlx_mistral.errors import CheckpointError, MlxMistralError
from mlx_mistral.memory import find_chip
from mlx_mistral.memory.device import Device
from mlx_mistral.memory.machine import Machine
from mlx_mistral.tui.pickers.model_rows import ModelRow, row_text
from tests.checkpoint.fake_hub import FakeHub, reached
from tests.checkpoint.models import hf_weights, write_hf, write_sharded

HERE, THERE, NEMO = "someone/Here", "someone/There", "mistralai/Mistral-Nemo-Instruct-2407"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    fake = FakeHub(tmp_path / "hub")
    for repo in (HERE, NEMO):
        write_hf(fake.root / repo, hf_weights())
    write_sharded(fake.root / THERE, hf_weights())
    monkeypatch.chdir(tmp_path)
    with reached(fake, tmp_path / "cache", monkeypatch) as hub:
        yield hub


def on(monkeypatch: pytest.MonkeyPatch, chip: str, budget_gb: float, free_gb: float) -> None:
    """As on a Mac with so much memory."""
    machine = Machine(
        budget_bytes=int(budget_gb * 1e9), source="test", free_bytes=int(free_gb * 1e9)
    )
    device = Device(dtype="bfloat16", scratch=METAL, machine=machine, chip=find_chip(chip))
    monkeypatch.setattr(Device, "here", lambda: device)


def by_name(models: KnownModels) -> dict[str, ModelRow]:
    return {row.name: row for row in models.rows()}


def test_what_is_here_comes_first_and_the_hub_is_not_asked(hub: FakeHub) -> None:
    resolve(HERE, progress=False)
    resolve(NEMO, progress=False)
    lost = resolve(THERE, progress=False) / "model-00002-of-00003.safetensors"
    lost.unlink()
    hub.requests.clear()
    rows = KnownModels().rows()
    assert hub.requests == []
    assert [row.name for row in rows if row.is_cached] == ["demo", NEMO, HERE]
    assert [row.is_cached for row in rows] == sorted((row.is_cached for row in rows), reverse=True)
    names = [row.name for row in rows]
    assert "nemo" not in names
    assert len(names) == 3 + len(set(ALIASES.values())) - 1 + 1
    assert rows[-1] == ModelRow(
        name=THERE, is_cached=False, detail="partly here: p goes on with it"
    )
    here = next(row for row in rows if row.name == HERE)
    assert here.size_bytes == sum(4 * array.size for array in hf_weights().values())
    assert here.bits == 32


def test_the_catalog_says_size_bits_fit_and_speed_and_is_readable_at_80_columns(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, "M2 Max", budget_gb=24, free_gb=22.5)
    rows = by_name(KnownModels(4096))
    seven, large = rows["mistral-7b"], rows["large"]
    assert row_text(seven, 70).split() == [
        "mistral-7b", "pull", "14.5", "GB", "16.0", "bits", "fits", "~20.2", "tok/s",
    ]  # fmt: skip
    assert (large.fits, large.size_bytes) == (False, 2 * 122_610_069_504)
    assert seven.decode_tps == pytest.approx(400e9 * 0.72 / (14_496_047_104 - 2 * 4096 * 32767))
    assert rows["mixtral-8x7b"].bits == 16
    assert rows["ministral-3-8b"].bits == pytest.approx(9.0, abs=0.05)
    assert all(row.size_bytes and row.decode_tps and row.detail for row in rows.values()
               if row.name != "demo")  # fmt: skip
    assert rows["demo"].decode_tps is None
    assert max(cell_len(row.detail) for row in rows.values()) <= 72


@pytest.mark.parametrize(
    ("budget_gb", "free_gb", "expected", "detail"),
    [
        (40, 39, (True, False), "cache 536.87 MB of it"),
        (16.5, 16.5, (True, True), "cache 536.87 MB of it"),
        (40, 3, (True, True), "3.00 GB free now"),
        (15, 15, (False, False), "would fit"),
        (12, 12, (False, False), "fits in 8 bits (convert)"),
        (1, 1, (False, False), "at 4,096 tokens"),
    ],
)
def test_a_fit_is_tight_with_little_to_spare_or_beside_what_runs_now(
    budget_gb: float,
    free_gb: float,
    expected: tuple[bool, bool],
    detail: str,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on(monkeypatch, "M2 Max", budget_gb, free_gb)
    row = by_name(KnownModels(4096))["mistral-7b"]
    assert (row.fits, row.is_tight) == expected
    assert row.detail.endswith(detail)


def test_a_context_that_a_model_does_not_have_is_no_fit_but_a_reason(hub: FakeHub) -> None:
    row = by_name(KnownModels(40_000))["mistral-7b"]
    assert row.fits is None
    assert "1 to 32768" in row.detail
    assert row.size_bytes == 14_496_047_104


def test_the_hub_tells_what_a_model_is_when_it_is_asked(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = KnownModels(100).look(THERE)
    assert (row.name, row.is_cached, row.fits) == (THERE, False, True)
    assert row.size_bytes == sum(4 * array.size for array in hf_weights().values())
    assert hub.bytes_sent < 200_000
    with pytest.raises(MlxMistralError, match="not on the Hub"):
        KnownModels().look("some/where")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MlxMistralError, match="cannot be reached"):
        KnownModels().look(THERE)


def test_a_pull_tells_bytes_and_ends_when_nobody_wants_the_rest(hub: FakeHub) -> None:
    hub.hold_after = 5_000
    models, told = KnownModels(), []

    def report(done: int, total: int) -> bool:
        told.append((done, total))
        if done >= 10_000:
            hub.may_go_on.set()
        return done < 10_000

    with pytest.raises(CheckpointError, match="was stopped"):
        models.pull(THERE, report)
    assert 10_000 <= told[-1][0] < told[-1][1]
    hub.hold_after = None
    models.pull(THERE, lambda done, total: True)
    assert by_name(models)[THERE].is_cached


def test_a_cached_model_that_cannot_be_read_is_listed_with_the_reason(hub: FakeHub) -> None:
    folder = resolve(HERE, progress=False)
    weights = folder / "model.safetensors"
    weights.resolve().write_bytes(b"junk")
    row = by_name(KnownModels())[HERE]
    assert (row.is_cached, row.size_bytes, row.fits) == (True, None, None)
    assert "model.safetensors" in row.detail
