"""A download that tells how far it is and can be ended, against a Hub on this machine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Run

from mlx_mistral.checkpoint import resolve
from mlx_mistral.checkpoint.hub_cache import cached_folder
from mlx_mistral.checkpoint.model_name import Repo
from mlx_mistral.cli.progress_bar import ProgressBar
from mlx_mistral.cli.terminal import Progress
from mlx_mistral.errors import CheckpointError
from tests.checkpoint.fake_hub import FakeHub, reached
from tests.checkpoint.models import hf_weights, write_sharded

REPO = "someone/Sharded"
PIECE = 5_000


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with one repository, and an empty cache."""
    fake = FakeHub(tmp_path / "hub")
    write_sharded(fake.root / REPO, hf_weights())
    (fake.root / REPO / "README.md").write_text("not fetched " * 1000)
    monkeypatch.chdir(tmp_path)
    with reached(fake, tmp_path / "cache", monkeypatch) as hub:
        yield hub


def size_of(hub: FakeHub) -> int:
    return sum(path.stat().st_size for name, path in hub.files(REPO).items() if name != "README.md")


def shards(hub: FakeHub) -> list[int]:
    """Bytes of the files that are held."""
    files = hub.files(REPO).items()
    return [path.stat().st_size for name, path in files if name.endswith(".safetensors")]


def test_bytes_are_told_up_to_the_size_of_what_is_fetched(hub: FakeHub) -> None:
    hub.hold_after = PIECE
    sent = PIECE * len(shards(hub))
    told: list[tuple[int, int]] = []
    threads = set()

    def report(done: int, total: int) -> None:
        told.append((done, total))
        threads.add(threading.get_ident())
        if done >= sent:
            hub.may_go_on.set()

    folder = resolve(REPO, report=report)
    assert {total for _, total in told} == {size_of(hub)}
    counts = [done for done, _ in told]
    assert counts == sorted(counts)
    assert 0 < counts[-2] <= counts[-1] == size_of(hub)
    while_held = next(count for count in counts if count >= sent)
    assert while_held <= size_of(hub) - sum(shards(hub)) + sent
    assert threads == {threading.get_ident()}
    assert cached_folder(Repo(REPO)) == folder


@pytest.mark.parametrize("how", ["says no", "raises"])
def test_what_is_not_wanted_any_more_ends_and_goes_on_later(hub: FakeHub, how: str) -> None:
    class Unwanted(Exception):
        pass

    hub.hold_after = PIECE
    held = PIECE * len(shards(hub))

    def report(done: int, total: int) -> bool:
        if done < held:
            return True
        hub.may_go_on.set()
        if how == "raises":
            raise Unwanted
        return False

    with pytest.raises(Unwanted if how == "raises" else CheckpointError) as caught:
        resolve(REPO, report=report)
    assert how == "raises" or "was stopped; pull it again to go on" in str(caught.value)
    assert cached_folder(Repo(REPO)) is None
    hub.hold_after = None
    told: list[int] = []
    folder = resolve(REPO, report=lambda done, total: told.append(done))
    assert cached_folder(Repo(REPO)) == folder
    assert told[-1] == size_of(hub)


def test_what_is_here_already_counts_as_done(hub: FakeHub) -> None:
    folder = resolve(REPO, progress=False)
    lost = folder / "model-00002-of-00003.safetensors"
    here = size_of(hub) - lost.stat().st_size
    lost.resolve().unlink()
    lost.unlink()
    hub.hold_after = PIECE
    told: list[int] = []

    def report(done: int, total: int) -> None:
        told.append(done)
        hub.may_go_on.set()

    resolve(REPO, report=report)
    assert told[0] >= here
    assert told[-1] == size_of(hub)
    hub.requests.clear()
    resolve(REPO, report=lambda done, total: pytest.fail("it is complete"))
    assert hub.requests == []


def test_a_failing_download_is_the_usual_line(hub: FakeHub) -> None:
    hub.gated.add(REPO)
    with pytest.raises(CheckpointError, match="is gated"):
        resolve(REPO, report=lambda done, total: True)


def test_nothing_is_shown_beside_the_report(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve(REPO, report=lambda done, total: True)
    assert capsys.readouterr() == ("", "")


def test_pulling_on_the_command_line_draws_the_bytes_and_prints_the_folder(
    hub: FakeHub, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    monkeypatch.setattr(Progress, "show", lambda _, text: drawn.append(text))
    hub.hold_after, draw = PIECE, ProgressBar.update

    def update(bar: ProgressBar, done: float, total: float, what: str) -> None:
        draw(bar, done, total, what)
        if done:
            hub.may_go_on.set()

    monkeypatch.setattr(ProgressBar, "update", update)
    ended = run("models", "pull", REPO)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out == f"{cached_folder(Repo(REPO))}\n"
    assert drawn[-1].startswith("[################] 100%")
    assert any("MB/s" in line and " left  " in line for line in drawn)
    assert all(line.endswith(f" MB  {REPO}") or " left  " in line for line in drawn)
