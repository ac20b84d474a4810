"""The Hub's cache through the command line, in processes that see a cache of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Ended, failed_in_one_line

import mlx_mistral

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Models = Callable[..., Ended]


@pytest.fixture
def cache(tmp_path: Path, tiny: Path) -> Path:
    """A cache with one model in it, laid out as the Hub's library does."""
    repo = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    for file in tiny.iterdir():
        blob = repo / "blobs" / file.name
        blob.write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(blob)
    return tmp_path


@pytest.fixture
def models(cache: Path) -> Models:
    def run(*args: str) -> Ended:
        done = subprocess.run(
            [sys.executable, "-m", "mlx_mistral", *args],
            capture_output=True, text=True, check=False,
            env={
                **os.environ,
                "PYTHONPATH": str(Path(mlx_mistral.__file__).parents[1]),
                "HF_HOME": str(cache),
                "HF_HUB_OFFLINE": "1",
            },
        )  # fmt: skip
        return Ended(done.returncode, done.stdout, done.stderr)

    return run


def test_the_cache_is_listed_and_its_models_are_used_without_a_network(
    models: Models, cache: Path
) -> None:
    listed = models("models", "--json").json["models"]
    assert [(model["repo"], model["layout"]) for model in listed] == [("someone/tiny", "hf")]
    assert models("models").out.startswith("someone/tiny ")
    path = models("models", "path", "someone/tiny")
    assert path.out == f"{cache}/hub/models--someone--tiny/snapshots/{COMMIT}\n"
    ended = models("generate", "someone/tiny", "-p", "Hi", "--max-tokens", "2", "--quiet")
    assert (ended.status, ended.err) == (0, "")
    assert models("info", "someone/tiny", "--json").json["tokenizer"] == "v3"


def test_a_removed_model_is_gone(models: Models) -> None:
    assert models("models", "rm", "someone/tiny", "--json").json["freed_bytes"] > 10_000
    assert json.loads(models("models", "--json").out) == {"models": []}
    assert failed_in_one_line(models("models", "rm", "someone/tiny"))


def test_what_is_not_in_the_cache_cannot_be_had_offline(models: Models) -> None:
    for args in (["models", "pull", "mistral-7b"], ["models", "path", "mistral-7b"],
                 ["info", "mistral-7b"], ["generate", "someone/else", "-p", "Hi"]):  # fmt: skip
        ended = models(*args)
        assert failed_in_one_line(ended), ended
        assert "mistralai/Mistral-7B-Instruct-v0.3" in ended.err or "someone/else" in ended.err
