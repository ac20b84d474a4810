"""The page of differences between macOS and Linux names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import mlx_mistral

TESTS = Path(__file__).parent
PAGE = (TESTS.parent / "docs" / "macos.md").read_text(encoding="utf-8")


def test_every_test_on_the_page_exists() -> None:
    names = re.findall(r"`([a-z_/]+\.py|…)::(test_\w+)`", PAGE)
    assert len(names) > 20
    file = ""
    for written, name in names:
        file = file if written == "…" else written
        assert f"def {name}(" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_every_file_on_the_page_exists() -> None:
    for file in re.findall(r"`((?:[a-z_]+/)+test_\w+\.py)`", PAGE):
        assert (TESTS / file).is_file(), file
    package = Path(mlx_mistral.__file__).parent
    for file in re.findall(r"[(`]((?:[a-z_]+/)+\w+\.py)`", PAGE):
        places = (package / file, TESTS.parent / file, TESTS / file)
        assert any(place.is_file() for place in places), file
