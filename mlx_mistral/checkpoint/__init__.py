"""Files become a model: layouts, names, strict readers, loading, the Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .headers import Headers, read_folder
    from .load import load_model
    from .model_folder import resolve
    from .reader import Checkpoint

__all__ = ["Checkpoint", "Headers", "load_model", "read_folder", "resolve"]

_HOMES = {
    "Checkpoint": "reader",
    "Headers": "headers",
    "load_model": "load",
    "read_folder": "headers",
    "resolve": "model_folder",
}


def __getattr__(name: str) -> Any:
    """Imports on first use: listing models needs neither MLX nor any weights."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
