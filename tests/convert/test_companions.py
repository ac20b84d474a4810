"""What travels along with the weights, and what does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_mistral.convert import convert_checkpoint
from mlx_mistral.convert.companions import companions
from mlx_mistral.errors import ConversionError
from tests.checkpoint.models import hf_weights, official_weights, write_hf, write_official

TRAVEL = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3",
    "tekken.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json",
    "generation_config.json", "LICENSE", "LICENSE.txt", "LICENCE.md", "NOTICE",
    "SYSTEM_PROMPT.txt",
)  # fmt: skip
STAY = (
    "README.md", "modeling_mistral.py", "params.json", "optimizer.pt", "adapter_config.json",
    ".gitattributes", "training_args.bin", "consolidated.txt", "license.py.bak", "conversion.json",
)  # fmt: skip


def test_what_text_needs_and_the_terms_travel_along_and_nothing_else(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", hf_weights())
    for name in (*TRAVEL, *STAY):
        (source / name).write_text(f"this is {name}")
    (source / "tokenizer").mkdir()
    done = convert_checkpoint(source, tmp_path / "out", group_size=32)
    assert {path.name for path in done.dest.iterdir()} == {
        *TRAVEL, "config.json", "model.safetensors", "model.safetensors.index.json",
        "conversion.json",
    }  # fmt: skip
    for name in TRAVEL:
        assert (done.dest / name).read_text() == f"this is {name}"
    manifest = json.loads((done.dest / "conversion.json").read_text())
    assert set(TRAVEL) < set(manifest["files"])


def test_links_become_files(tmp_path: Path) -> None:
    """As in the cache of the Hub, where every file is one."""
    blobs, source = tmp_path / "blobs", write_hf(tmp_path / "snapshots" / "rev", hf_weights())
    blobs.mkdir()
    (source / "LICENSE").write_text("as you like")
    for path in list(source.iterdir()):
        path.rename(blobs / f"{path.name}-blob")
        path.symlink_to(f"../../blobs/{path.name}-blob")
    done = convert_checkpoint(source, tmp_path / "out", group_size=32)
    assert not any(path.is_symlink() for path in done.dest.iterdir())
    assert (done.dest / "LICENSE").read_text() == "as you like"


def test_a_link_to_somewhere_else_is_not_followed(tmp_path: Path) -> None:
    source = write_hf(tmp_path / "source", hf_weights())
    (tmp_path / "private").write_text("a secret")
    (source / "LICENSE").symlink_to(tmp_path / "private")
    with pytest.raises(ConversionError, match="LICENSE links to a file outside"):
        convert_checkpoint(source, tmp_path / "out", group_size=32)
    assert not (tmp_path / "out").exists()


def test_a_companion_that_is_far_too_large_is_refused(tmp_path: Path) -> None:
    source = write_official(tmp_path / "source", official_weights(hf_weights()))
    with (source / "tekken.json").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(ConversionError, match="too many for such a file"):
        companions(source)
