"""The backend is chosen once, by the environment and the device."""

from __future__ import annotations

import os
import subprocess
import sys

import mlx.core as mx
import pytest

from mlx_mistral.backend import device, select
from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import active_backend, new_backend, use_backend
from mlx_mistral.errors import MlxMistralError


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("auto", "cpu", CPUBackend),
        ("auto", "metal", Backend),
        ("auto", "cuda", Backend),
        ("mlx", "cpu", Backend),
        ("cpu", "metal", CPUBackend),
    ],
)
def test_the_name_decides_and_auto_follows_the_device(
    name: str, kind: str, expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(select, "device_kind", lambda: kind)
    assert type(new_backend(name)) is expected


def test_the_tests_run_the_backend_that_the_environment_names() -> None:
    assert active_backend().name == os.environ["MLX_MISTRAL_BACKEND"]
    assert mx.default_device() == mx.cpu
    assert device.default_dtype() == mx.float32


def test_a_backend_may_be_used_for_a_while() -> None:
    before = active_backend()
    with use_backend("cpu") as inside:
        assert active_backend() is inside
    assert active_backend() is before
    with pytest.raises(ZeroDivisionError), use_backend("cpu"):
        raise ZeroDivisionError
    assert active_backend() is before


@pytest.mark.parametrize("name", ["metal", "CPU", "mlx\n"])
def test_another_word_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(MlxMistralError, match="auto, mlx, cpu"):
        new_backend(name)
    run = subprocess.run(
        [sys.executable, "-m", "mlx_mistral", "generate", "demo", "-p", "a", "--max-tokens", "1"],
        env={**os.environ, "MLX_MISTRAL_BACKEND": name},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.count("\n") == 1
    assert "MLX_MISTRAL_BACKEND" in run.stderr
    assert run.stdout == ""
