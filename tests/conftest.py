"""The backend of the test run, and a way to run the command line inside a test.

Tests run plain MLX operations on MLX's CPU device, in float32: the code path of a Mac.
`MLX_MISTRAL_BACKEND=cpu` runs them with the overrides of the CPU device instead.
"""

from __future__ import annotations

import io
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MLX_MISTRAL_BACKEND", "mlx")
if "PYTEST_XDIST_WORKER" in os.environ:
    # MLX keeps the kernels that it builds for compiled functions in the temporary folder, and a
    # process may load a kernel that another process is still writing.
    worker = f"mlx-kernels-{os.getuid()}-{os.environ['PYTEST_XDIST_WORKER']}"
    kernels = Path(tempfile.gettempdir()) / worker
    kernels.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(kernels)

import mlx.core as mx
import pytest
from command_line import Ended, Run

from mlx_mistral.cli.main import main

mx.set_default_device(mx.cpu)


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
