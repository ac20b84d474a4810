"""What the README shows is run: commands as they stand, Python as it stands.

A fenced block's first line says what to do with it: `bash` and `python` are run, with the network
out of reach; `bash network` is checked against the real argument parser; `bash install` is what
.ci/run runs, word for word.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import mlx_mistral
from mlx_mistral.cli.main import build_parser

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```([a-z ]+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
KINDS = ("bash", "bash install", "bash network", "python", "text")


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """In a folder, with the program on the path and no way to the network."""
    programs = folder / "bin"
    programs.mkdir()
    program = programs / "mlx-mistral"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mlx_mistral "$@"\n')
    program.chmod(0o755)
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(Path(mlx_mistral.__file__).parents[1]),
            "PYTHONSAFEPATH": "1",
            "HF_HOME": str(folder / "hub"),
            "HF_HUB_OFFLINE": "1",
        },
    )  # fmt: skip


def commands_in(block: str) -> list[str]:
    return [line for line in block.splitlines() if line.strip()]


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert len(BLOCKS) == README.count("\n```") // 2
    assert {kind for kind, _ in BLOCKS} == set(KINDS)


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.split("\n")[0])
def test_commands_run(block: str, tmp_path: Path) -> None:
    done = run(["bash", "-euo", "pipefail", "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.split("\n")[0])
def test_python_runs(block: str, tmp_path: Path) -> None:
    done = run([sys.executable, "-c", block], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("command", [c for b in blocks("bash network") for c in commands_in(b)])
def test_commands_that_need_the_network_are_understood(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "mlx-mistral"
    assert callable(build_parser().parse_args(arguments).run)


def test_the_two_first_commands_install_run_and_test() -> None:
    install, test = (block.strip() for block in blocks("bash install"))
    assert [kind for kind, _ in BLOCKS[:2]] == ["bash install", "bash install"]
    assert "pip install ." in install
    assert install.endswith("mlx-mistral chat")
    assert test.endswith("-m pytest -n auto")
    assert "\n" not in install + test


def test_every_command_of_the_program_is_shown() -> None:
    shown = set(re.findall(r"mlx-mistral (\w+)", README))
    actions = build_parser()._subparsers
    assert actions is not None
    choices = actions._group_actions[0].choices
    assert choices is not None
    assert shown == set(choices)


def test_the_floor_plan_is_the_tree() -> None:
    package = Path(mlx_mistral.__file__).parent
    plan = next(text for kind, text in BLOCKS if kind == "text")
    rooms = {path.name for path in package.iterdir() if (path / "__init__.py").is_file()}
    rooms -= {"convert", "tui"}  # which lie at the top of a tree
    modules = {path.name for path in package.glob("*.py")} - {"__init__.py", "__main__.py"}
    assert set(re.findall(r"^  (\w+)/", plan, re.MULTILINE)) == rooms
    assert set(re.findall(r"(\w+\.py)", plan)) == modules | {"reference.py"}
