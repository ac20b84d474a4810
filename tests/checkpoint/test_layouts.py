"""Which files of a folder are read, and what is said where they do not make up a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_mistral.checkpoint.layouts import find_files, layouts
from mlx_mistral.errors import CheckpointError, ModelNotFoundError


def folder_with(folder: Path, *names: str, index: dict[str, str] | None = None) -> Path:
    for name in names:
        (folder / name).touch()
    if index is not None:
        stem = "consolidated" if "params.json" in names else "model"
        (folder / f"{stem}.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize(
    ("names", "kind", "weights"),
    [
        (["config.json", "model.safetensors"], "hf", ["model.safetensors"]),
        (["params.json", "consolidated.safetensors"], "official", ["consolidated.safetensors"]),
        (["params.json", "consolidated.00.pth"], "official", ["consolidated.00.pth"]),
        (
            ["params.json", "consolidated.01.pt", "consolidated.00.pt"],
            "official",
            ["consolidated.00.pt", "consolidated.01.pt"],
        ),
        (
            ["params.json", *(f"consolidated-0000{n}-of-00002.safetensors" for n in (1, 2))],
            "official",
            [f"consolidated-0000{n}-of-00002.safetensors" for n in (1, 2)],
        ),
        (
            ["config.json", *(f"model-0000{n}-of-00002.safetensors" for n in (1, 2))],
            "hf",
            [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)],
        ),
        (
            ["config.json", "model.safetensors", "params.json", "consolidated.safetensors"],
            "hf",
            ["model.safetensors"],
        ),
        (
            [
                "config.json",
                "model-00001-of-00002.safetensors",
                "params.json",
                "consolidated.00.pth",
            ],
            "official",
            ["consolidated.00.pth"],
        ),
        (
            ["model.safetensors", "params.json", "consolidated.safetensors"],
            "official",
            ["consolidated.safetensors"],
        ),
        (
            ["config.json", "params.json", "consolidated.safetensors", "tokenizer.json"],
            "official",
            ["consolidated.safetensors"],
        ),
    ],
)
def test_a_complete_layout_is_found(
    names: list[str], kind: str, weights: list[str], tmp_path: Path
) -> None:
    found = find_files(folder_with(tmp_path, *names))
    assert (found.kind, list(found.weights)) == (kind, weights)


def test_an_index_says_which_files_are_read(tmp_path: Path) -> None:
    folder_with(
        tmp_path, "config.json", "model-a.safetensors", "model-old.safetensors",
        index={"w": "model-a.safetensors"},
    )  # fmt: skip
    assert find_files(tmp_path).weights == ("model-a.safetensors",)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no model\*\.safetensors"),
        (["config.json", "params.json"], r"no model\*\.safetensors"),
        (["model.gguf"], "GGUF"),
        (["config.json", "pytorch_model-00001-of-00002.bin"], r"pytorch_model\*\.bin"),
        (["adapters.safetensors"], "adapter"),
        (["model.safetensors"], r"no config\.json"),
        (["consolidated.safetensors"], r"no params\.json"),
        (["params.json", "consolidated.safetensors", "consolidated.00.pth"], "both as"),
        (["params.json", "consolidated.safetensors", "consolidated.00.safetensors"], "has both"),
        (["params.json", "consolidated.00.pth", "consolidated.02.pth"], r"consolidated\.01 is"),
        (["params.json", "consolidated.01.pth"], r"consolidated\.00 is"),
        (["config.json", "model-00001-of-00003.safetensors"], "part 2 of 3"),
        (["config.json", "model-00001-of-999999.safetensors"], "part 2 of 999999"),
        (["config.json", "model.safetensors", "model-00001-of-00001.safetensors"], "has both"),
    ],
)
def test_what_is_missing_or_ambiguous_is_said(
    names: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        find_files(folder_with(tmp_path, *names))


def test_a_shard_that_the_index_names_must_be_there(tmp_path: Path) -> None:
    index = {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-3.safetensors"}
    folder_with(tmp_path, "config.json", "model-1.safetensors", index=index)
    with pytest.raises(CheckpointError, match=r"names model-2\.safetensors.*\(2 such files\)"):
        find_files(tmp_path)


@pytest.mark.parametrize(
    "file",
    ["../model.safetensors", "/etc/passwd", "a/model.safetensors", ".safetensors", "x.bin", 3],
)
def test_an_index_names_only_weights_beside_it(file: object, tmp_path: Path) -> None:
    folder_with(tmp_path, "config.json", index={"a": file})  # type: ignore[dict-item]
    with pytest.raises(CheckpointError, match="beside it"):
        find_files(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {}}'])
def test_a_broken_index_says_so(content: str, tmp_path: Path) -> None:
    folder_with(tmp_path, "config.json", "model.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        find_files(tmp_path)


def test_a_folder_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is no folder"):
        find_files(tmp_path / "nowhere")


def test_a_repository_with_both_layouts_offers_hugging_face_first() -> None:
    names = ["params.json", "consolidated.safetensors", "config.json", "model.safetensors"]
    assert [files.kind for files in layouts(names)] == ["hf", "official"]


def test_a_layout_without_its_configuration_comes_last() -> None:
    names = ["model.safetensors", "params.json", "consolidated.safetensors"]
    assert [files.kind for files in layouts(names)] == ["official", "hf"]
