"""The backend in use: chosen once, by `MLX_MISTRAL_BACKEND` and the device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlx_mistral.errors import MlxMistralError

from .cpu.overrides import CPUBackend
from .device import device_kind
from .ops import Backend

VARIABLE = "MLX_MISTRAL_BACKEND"
CHOICES = ("auto", "mlx", "cpu")

_active: Backend | None = None


def active_backend() -> Backend:
    """Return the backend of this process; the first call chooses it.

    Raises: MlxMistralError: `MLX_MISTRAL_BACKEND` holds another word.
    """
    global _active
    if _active is None:
        _active = new_backend(os.environ.get(VARIABLE) or "auto")
    return _active


def new_backend(name: str) -> Backend:
    """Return a backend by its name: "mlx", "cpu", or "auto" for the one that suits the device.

    Raises: MlxMistralError: no such backend.
    """
    if name not in CHOICES:
        raise MlxMistralError(
            f"{VARIABLE} is {name!r}, not a backend; set it to one of {', '.join(CHOICES)}"
        )
    if name == "auto":
        name = "cpu" if device_kind() == "cpu" else "mlx"
    return CPUBackend() if name == "cpu" else Backend()


@contextmanager
def use_backend(backend: Backend | str) -> Iterator[Backend]:
    """Use another backend inside the context. Not for threads that run at the same time."""
    global _active
    before = _active
    _active = new_backend(backend) if isinstance(backend, str) else backend
    try:
        yield _active
    finally:
        _active = before
