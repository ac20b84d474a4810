"""What is packed is what is there."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path
from typing import Any

import pytest

import mlx_mistral

ROOT = Path(__file__).parents[1]
PACKAGE = Path(mlx_mistral.__file__).parent
MAPPED = ("convert", "tui")
"""Folders at the top that are installed inside the package."""


@pytest.fixture(scope="module")
def setuptools() -> dict[str, Any]:
    if not (ROOT / "mlx_mistral").is_dir():
        pytest.skip("the tests run beside an installed wheel, without the tree to compare with")
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    table: dict[str, Any] = tomllib.loads(text)["tool"]["setuptools"]
    return table


def packages_in(folder: Path, name: str) -> set[str]:
    return {
        ".".join([name, *path.parent.relative_to(folder).parts])
        for path in folder.rglob("__init__.py")
    }


def test_every_package_of_the_tree_is_listed(setuptools: dict[str, Any]) -> None:
    found = packages_in(ROOT / "mlx_mistral", "mlx_mistral")
    for folder in MAPPED:
        found |= packages_in(ROOT / folder, f"mlx_mistral.{folder}")
    assert set(setuptools["packages"]) == found
    assert len(setuptools["packages"]) == len(found)


def test_folders_at_the_top_are_installed_inside_the_package(setuptools: dict[str, Any]) -> None:
    present = {name for name in MAPPED if (ROOT / name).is_dir()}
    mapping = setuptools.get("package-dir", {})
    assert mapping == {f"mlx_mistral.{name}": name for name in present}


def test_every_python_file_is_in_a_package() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_data_files_are_all_packed(setuptools: dict[str, Any]) -> None:
    """Each file beside the code is named by a pattern, and each pattern finds something."""
    packed: set[Path] = set()
    for package, patterns in setuptools["package-data"].items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            matches = set(folder.glob(pattern))
            assert matches, f"{package}: {pattern} matches nothing"
            packed |= matches
    beside = {
        path
        for path in (ROOT / "mlx_mistral").rglob("*")
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts
    }
    assert {path.relative_to(ROOT) for path in beside - packed} == set()


def test_the_package_is_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_the_installed_package_brings_no_other_top_level_name() -> None:
    if (ROOT / "mlx_mistral").is_dir():
        pytest.skip("the checkout is tested, not what was installed")
    files = importlib.metadata.distribution("mlx-mistral").files or []
    tops = {file.parts[0] for file in files if ".." not in file.parts}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"mlx_mistral"}
