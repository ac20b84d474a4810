"""A way to run the command line inside a test."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from command_line import Ended, Run

from mlx_mistral.cli.main import main


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: `run("generate", "demo", stdin=b"…")`."""

    def run(*args: str | Path, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), "utf-8"))
        capsys.readouterr()
        try:
            status = main([str(arg) for arg in args])
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0
        return Ended(int(status), *capsys.readouterr())

    return run
