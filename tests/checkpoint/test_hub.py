"""Names of models, the Hub and its cache, against a Hub on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from mlx_mistral.checkpoint import hub as hub_module
from mlx_mistral.checkpoint import load_model, read_folder, resolve
from mlx_mistral.checkpoint.catalog import ALIASES
from mlx_mistral.checkpoint.hub import download
from mlx_mistral.checkpoint.hub_cache import cached_folder, cached_path, list_cached, remove
from mlx_mistral.checkpoint.hub_headers import read_model, read_repo
from mlx_mistral.checkpoint.model_name import Repo, locate
from mlx_mistral.errors import CheckpointError, MlxMistralError, ModelNotFoundError
from tests.checkpoint.fake_hub import FakeHub, serve
from tests.checkpoint.models import (
    hf_weights,
    official_weights,
    write_hf,
    write_official,
    write_sharded,
)
from tests.checkpoint.writers import write_torch

ROOT = Path(__file__).parents[2]
BOTH = "mistralai/Both-7B"
OFFICIAL = "mistralai/Official-7B"
PICKLED = "mistralai/Pickled-7B"
SHARDED = "someone/Sharded"
OTHER = "someone/bert"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A Hub with a few repositories, and an empty cache."""
    weights, root = hf_weights(), tmp_path / "hub"
    write_hf(root / BOTH, weights)
    write_official(root / BOTH, official_weights(weights))
    (root / BOTH / "pytorch_model.bin").write_bytes(b"unsafe")
    for name in ("tekken.json", "tokenizer.json", "LICENSE", "README.md", "image.png"):
        (root / BOTH / name).write_text(name)
    write_official(root / OFFICIAL, official_weights(weights))
    (root / OFFICIAL / "tokenizer.model.v3").write_text("pieces")
    write_torch(root / OFFICIAL / "consolidated.00.pth", official_weights(weights))
    write_official(root / PICKLED, official_weights(weights))
    (root / PICKLED / "consolidated.safetensors").unlink()
    for part in range(2):
        half = dict(list(official_weights(weights).items())[part::2])
        write_torch(root / PICKLED / f"consolidated.{part:02}.pth", half)
    write_sharded(root / SHARDED, weights)
    (root / OTHER).mkdir()
    (root / OTHER / "config.json").write_text('{"model_type": "bert"}')

    fake = FakeHub(root)
    cache = tmp_path / "cache"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    with serve(fake) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield fake


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_one_layout_is_fetched_with_its_tokenizer_and_licence(hub: FakeHub) -> None:
    folder = resolve(BOTH, progress=False)
    expected = ["LICENSE", "config.json", "model.safetensors", "tekken.json", "tokenizer.json"]
    assert hub.fetched() == expected
    assert names(folder) == set(expected)
    assert load_model(folder).config.dim == 64


def test_official_files_are_fetched_where_there_are_no_others(hub: FakeHub) -> None:
    folder = resolve(OFFICIAL, progress=False)
    assert names(folder) == {"params.json", "consolidated.safetensors", "tokenizer.model.v3"}
    assert load_model(folder).config.dim == 64


def test_pickles_are_fetched_where_there_is_nothing_else(hub: FakeHub) -> None:
    folder = resolve(PICKLED, progress=False)
    assert names(folder) == {"params.json", "consolidated.00.pth", "consolidated.01.pth"}
    assert load_model(folder).config.dim == 64


@pytest.mark.parametrize("repo", [BOTH, OFFICIAL, PICKLED, SHARDED])
def test_a_complete_model_makes_no_second_request(hub: FakeHub, repo: str) -> None:
    folder = resolve(repo, progress=False)
    hub.requests.clear()
    assert resolve(repo, progress=False) == folder
    assert resolve(f"{repo}@main", progress=False) == folder
    assert resolve(f"{repo}@{hub.commit(repo)}", progress=False) == folder
    assert cached_path(repo) == folder
    assert hub.requests == []


@pytest.mark.parametrize(
    ("repo", "lost"),
    [
        (SHARDED, "model-00002-of-00003.safetensors"),
        (SHARDED, "config.json"),
        (BOTH, "tekken.json"),
        (PICKLED, "consolidated.01.pth"),
    ],
)
def test_only_what_is_missing_is_fetched_again(hub: FakeHub, repo: str, lost: str) -> None:
    folder = resolve(repo, progress=False)
    (folder / lost).resolve().unlink()
    (folder / lost).unlink()
    hub.requests.clear()
    assert resolve(repo, progress=False) == folder
    assert hub.fetched() == [lost]


def test_a_broken_connection_goes_on_where_it_stopped(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    hub.break_after = 100_000
    folder = resolve(BOTH, progress=False)
    assert hub.fetched().count("model.safetensors") == 3
    assert hub.bytes_sent < sum(path.stat().st_size for path in folder.iterdir()) + 2000
    assert load_model(folder).config.dim == 64


def test_a_download_that_fails_is_one_line_and_leaves_nothing_half_written(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.break_after = 100_000
    with pytest.raises(CheckpointError, match="finished files are kept") as caught:
        resolve(BOTH, progress=False)
    assert "\n" not in str(caught.value)
    assert cached_folder(Repo(BOTH)) is None
    hub.break_after = None
    hub.requests.clear()
    resolve(BOTH, progress=False)
    assert hub.fetched() == ["model.safetensors"]


def test_a_gated_repository_names_its_page_and_what_to_do(hub: FakeHub) -> None:
    hub.gated.add(BOTH)
    with pytest.raises(CheckpointError) as caught:
        resolve(BOTH, progress=False)
    assert str(caught.value) == (
        f"{BOTH} is gated: accept its licence at {constants.ENDPOINT}/{BOTH}, then run "
        "`hf auth login` or set HF_TOKEN"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mistralai/Nowhere", "is not on the Hub, or it is private"),
        (f"{BOTH}@v9", r"has no revision 'v9'"),
        (OTHER, "holds no model that is read here"),
    ],
)
def test_what_the_hub_does_not_have_is_one_line(hub: FakeHub, model: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve(model, progress=False)
    assert "\n" not in str(caught.value)


def test_without_a_connection_it_says_so(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match="cannot be reached; check the connection"):
        resolve(BOTH, progress=False)


def test_a_model_that_lacks_a_licence_text_runs_without_a_connection(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve(BOTH, progress=False)
    (folder / "LICENSE").unlink()
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert resolve(BOTH, progress=False) == folder


def test_a_full_disk_is_seen_before_the_download(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(CheckpointError, match=r"takes 0\.0 GB, .* has 0\.0 GB free"):
        resolve(BOTH, progress=False)
    assert hub.fetched() == []


def test_a_disk_that_fills_up_is_one_line(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "blob")

    monkeypatch.setattr(hub_module.huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match="disk is full"):
        download(Repo(BOTH), progress=False)


def test_progress_goes_to_stderr_and_can_be_silenced(
    hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    resolve(BOTH, progress=False)
    assert capsys.readouterr() == ("", "")
    resolve(OFFICIAL)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Fetching" in shown.err


def test_offline_means_what_it_means_everywhere(hub: FakeHub, tmp_path: Path) -> None:
    folder = resolve(BOTH, progress=False)
    hub.requests.clear()
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_CACHE": constants.HF_HUB_CACHE,
        "HF_ENDPOINT": constants.ENDPOINT,
    }
    code = (
        "import sys\n"
        "from mlx_mistral.checkpoint import resolve\n"
        "from mlx_mistral.errors import CheckpointError\n"
        "for model in sys.argv[1:]:\n"
        "    try: print(resolve(model))\n"
        "    except CheckpointError as error: print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, BOTH, SHARDED],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found, missing = result.stdout.splitlines()
    assert found == str(folder)
    assert missing == (
        f"{SHARDED} is not complete in the cache and HF_HUB_OFFLINE is set; unset it to download"
    )
    assert hub.requests == []


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_hf(tmp_path / "org" / "name", hf_weights())
    assert resolve(folder) == resolve(str(folder)) == folder
    assert resolve("org/name") == Path("org/name")


def test_demo_is_the_bundled_model() -> None:
    from mlx_mistral import demo

    assert resolve("demo") == demo.model_path()


@pytest.mark.parametrize("alias", ALIASES)
def test_an_alias_is_a_repository_of_mistral(alias: str) -> None:
    found = locate(alias)
    assert isinstance(found, Repo)
    assert found.id.startswith("mistralai/")
    assert locate(f"{alias}@v2") == Repo(found.id, "v2")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("mixtral-8x7", "did you mean mixtral-8x7b"),
        ("nothing-like-it", "aliases: mistral-7b"),
        ("", "no folder here"),
        ("a/b/c", "no folder here"),
        ("./nowhere", "no folder here"),
        ("/nowhere/at/all", "no folder here"),
        ("~/nowhere", "no folder here"),
        ("../nowhere", "no folder here"),
        ("org/name@../../x", "no folder here"),
        ("org/name@", "no folder here"),
        ("org/na me", "no folder here"),
        ("org/name\n", "no folder here"),
        (Path("org/name"), "no folder here"),
        (Path(__file__), "is a file"),
    ],
)
def test_what_names_no_model_is_one_line(
    model: str | Path, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=message) as caught:
        resolve(model)
    assert "\n" not in str(caught.value)


def test_the_cache_lists_the_models_that_run(hub: FakeHub) -> None:
    assert list_cached() == []
    both, sharded = resolve(BOTH, progress=False), resolve(SHARDED, progress=False)
    resolve(OFFICIAL, progress=False)
    bert = Path(constants.HF_HUB_CACHE) / "models--someone--bert" / "snapshots" / ("0" * 40)
    bert.mkdir(parents=True)
    shutil.copy(hub.root / OTHER / "config.json", bert)
    (sharded / "model-00002-of-00003.safetensors").unlink()
    entries = {entry.repo: entry for entry in list_cached()}
    assert list(entries) == [BOTH, OFFICIAL, SHARDED]
    assert entries[BOTH].path == both
    assert entries[BOTH].layout == "hf"
    assert entries[OFFICIAL].layout == "official"
    assert entries[BOTH].revision == "main"
    assert entries[BOTH].nbytes == sum(path.stat().st_size for path in both.iterdir())
    assert [entry.is_complete for entry in entries.values()] == [True, True, False]


def test_a_model_is_removed_from_the_cache(hub: FakeHub) -> None:
    folder = resolve(BOTH, progress=False)
    nbytes = sum(path.stat().st_size for path in folder.iterdir())
    assert remove(BOTH) == nbytes
    assert not folder.exists()
    for call in (remove, cached_path):
        with pytest.raises(ModelNotFoundError, match="not in the cache"):
            call(BOTH)


def test_another_spelling_of_a_model_is_removed_where_the_disk_ignores_case(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = resolve(BOTH, progress=False)
    spelling = BOTH.swapcase()
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        remove(spelling)
    monkeypatch.setattr(os.path, "samefile", lambda a, b: str(a).casefold() == str(b).casefold())
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        remove(f"{spelling}-other")
    assert remove(spelling) > 0
    assert not folder.exists()


def test_only_the_revision_that_is_named_is_removed(hub: FakeHub) -> None:
    folder = resolve(BOTH, progress=False)
    with pytest.raises(ModelNotFoundError):
        remove(f"{BOTH}@v9")
    assert folder.exists()
    assert remove(f"{BOTH}@main") > 0


def test_local_folders_are_never_removed(tmp_path: Path) -> None:
    folder = write_hf(tmp_path, hf_weights())
    for model in (str(folder), "demo"):
        with pytest.raises(ModelNotFoundError, match="delete it yourself"):
            remove(model)
    assert (folder / "model.safetensors").exists()


@pytest.mark.parametrize("repo", [BOTH, OFFICIAL, SHARDED])
@pytest.mark.parametrize("honours_ranges", [True, False])
def test_headers_of_a_repository_come_without_its_weights(
    hub: FakeHub, repo: str, honours_ranges: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlx_mistral.checkpoint.hub_headers.FIRST_BYTES", 100)
    hub.honours_ranges = honours_ranges
    remote = read_model(repo)
    if honours_ranges:
        assert hub.bytes_sent < 15_000
    assert list_cached() == []
    local = read_folder(hub.root / repo) if repo != OFFICIAL else None
    if local is not None:
        assert remote.config == local.config
        assert remote.parameters.keys() == local.parameters.keys()
        assert remote.weight_bytes == local.weight_bytes
        assert remote.active_parameter_count == local.active_parameter_count
    assert remote.parameter_count == sum(array.size for array in hf_weights().values())


def test_headers_of_a_cached_repository_come_from_the_cache(hub: FakeHub) -> None:
    resolve(BOTH, progress=False)
    hub.requests.clear()
    assert read_model(BOTH).layout == "hf"
    assert hub.requests == []


def test_headers_of_pickles_ask_for_a_download(hub: FakeHub) -> None:
    with pytest.raises(CheckpointError, match="`models pull` it"):
        read_repo(Repo(PICKLED))


def test_a_malformed_remote_header_is_one_line(hub: FakeHub) -> None:
    path = hub.root / BOTH / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="the header claims"):
        read_repo(Repo(BOTH))


def test_headers_of_a_gated_repository_name_its_page(hub: FakeHub) -> None:
    hub.gated.add(BOTH)
    with pytest.raises(MlxMistralError, match="gated"):
        read_repo(Repo(BOTH))
