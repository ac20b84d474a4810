"""Sizes in bytes, as people write and read them."""

from __future__ import annotations

import re

from mlx_mistral.errors import MemoryBudgetError

_UNITS = {
    "": 1, "B": 1,
    "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40,
}  # fmt: skip
_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,6})?)\s*([A-Za-z]*)", re.ASCII)
LARGEST_BYTES = 1 << 60


def parse_size(text: str | int) -> int:
    """Bytes: `16GB` (10^9 each), `16GiB` (2^30 each), `900MB`, or a plain number.

    Raises: MemoryBudgetError: it is no size, nothing, or more than any machine has.
    """
    if isinstance(text, bool):
        raise MemoryBudgetError(f"{text!r} is no size; write 16GB, 16GiB or a number of bytes")
    match = _SIZE.fullmatch(str(text).strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None:
        raise MemoryBudgetError(
            f"{text!r} is no size; write 16GB, 16GiB, 900MB or a number of bytes"
        )
    n_bytes = int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit
    if n_bytes < 1:
        raise MemoryBudgetError(f"{text!r} is nothing; at least one byte is expected")
    if n_bytes > LARGEST_BYTES:
        raise MemoryBudgetError(f"{text!r} is more than any machine has; write 16GB or 16GiB")
    return n_bytes


def size_text(n_bytes: int) -> str:
    """In the decimal units that sizes of models are given in."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= size:
            return f"{n_bytes / size:.2f} {unit}"
    return f"{n_bytes} bytes"
