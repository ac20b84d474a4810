"""Bytes as a person reads them."""

from __future__ import annotations


def size_text(n_bytes: int) -> str:
    """In the decimal units that sizes of models are given in."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes} bytes"
