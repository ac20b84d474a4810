"""Tokenizers of repositories, without their weights, against a Hub on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import mistral_common
import pytest
from command_line import Run
from huggingface_hub import constants

from mlx_mistral.checkpoint.hub_tokenizer import resolve_tokenizer
from mlx_mistral.errors import MlxMistralError
from tests.checkpoint.fake_hub import FakeHub, serve
from tests.checkpoint.models import hf_weights, write_hf

SHIPPED = Path(mistral_common.__file__).parent / "data"
SPM = SHIPPED / "mistral_instruct_tokenizer_240323.model.v3"
TEKKEN = SHIPPED / "tekken_240718.json"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Repositories with one kind of tokenizer each, beside weights that nobody asks for."""
    root = tmp_path / "hub"
    for repo in ("a/spm", "a/tekken", "a/hf", "a/none"):
        write_hf(root / repo, hf_weights())
    shutil.copy(SPM, root / "a/spm/tokenizer.model.v3")
    shutil.copy(SHIPPED / "tokenizer.model.v1", root / "a/spm/tokenizer.model")
    shutil.copy(TEKKEN, root / "a/tekken/tekken.json")
    (root / "a/hf/tokenizer.json").write_text("{}")
    fake = FakeHub(root)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with serve(fake) as endpoint:
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield fake


def test_counting_tokens_fetches_the_tokenizer_once_and_no_weights(hub: FakeHub, run: Run) -> None:
    ended = run("tokens", "a/spm", "-p", "Hello", "--json", "--quiet")
    assert (ended.status, ended.json["tokenizer"]) == (0, "v3")
    assert ended.json["ids"] == run("tokens", SPM, "-p", "Hello", "--json").json["ids"]
    assert not [name for name in hub.fetched() if "safetensors" in name]
    hub.requests.clear()
    assert run("tokens", "a/spm", "-p", "Hello", "--quiet").status == 0
    assert hub.requests == []


def test_only_the_tokenizer_is_in_the_cache_then(hub: FakeHub) -> None:
    folder = resolve_tokenizer("a/tekken", progress=False)
    assert {path.name for path in folder.iterdir()} == {"tekken.json"}


@pytest.mark.parametrize(
    ("repo", "version"),
    [("a/spm", "v3"), ("a/tekken", "v3-tekken"), ("a/hf", "tokenizer.json"), ("a/none", None)],
)
def test_info_tells_the_version_from_a_few_kilobytes(
    hub: FakeHub, run: Run, repo: str, version: str | None, tmp_path: Path
) -> None:
    ended = run("info", repo, "--json")
    assert ended.status == 0, ended.err
    assert ended.json["tokenizer"] == version
    assert hub.bytes_sent < 800_000
    assert not (tmp_path / "cache").exists()


def test_info_shows_the_chat_format_of_a_small_tokenizer(hub: FakeHub, run: Run) -> None:
    assert "[INST]" in run("info", "a/spm", "--json").json["chat_format"]


def test_a_gated_tokenizer_names_its_page(hub: FakeHub) -> None:
    hub.gated.add("a/spm")
    with pytest.raises(MlxMistralError, match="gated"):
        resolve_tokenizer("a/spm", progress=False)
