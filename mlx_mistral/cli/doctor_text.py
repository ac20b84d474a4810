"""The lines of `doctor`: the machine card, and one line for each check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mlx_mistral.config.sizes import size_text

from .terminal import one_line

if TYPE_CHECKING:
    from mlx_mistral.doctor import Check

LABEL_WIDTH = 12
VERDICT_WIDTH = 9
VALUE_WIDTH = 28


def card_lines(
    card: Mapping[str, Any], versions: Mapping[str, str | None], backend: str, dtype: str
) -> list[str]:
    """Return the facts of the machine that are known, one subject a line."""
    cores = card.get("gpu_cores")
    memory = (
        ("memory", "memory_bytes"),
        ("working set", "working_set_bytes"),
        ("wired limit", "wired_limit_bytes"),
        ("free memory", "free_bytes"),
    )
    rows = [
        ("chip", f"{card.get('chip')}, {cores} GPU cores" if cores else card.get("chip")),
        ("system", card.get("os_version") or card.get("system")),
        ("device", f"{card.get('backend')}, {backend} backend, {dtype}"),
        *((label, _size(card.get(key))) for label, key in memory),
        ("power", card.get("power")),
        ("heat", card.get("thermal")),
        ("settings", " ".join(f"{k}={v}" for k, v in (card.get("environment") or {}).items())),
        ("versions", ", ".join(f"{name} {text}" for name, text in versions.items() if text)),
    ]
    return [f"{label:<{LABEL_WIDTH}}{one_line(str(text))}" for label, text in rows if text]


def check_line(check: Check, name_width: int) -> str:
    """Return a check as a line: verdict, name, value, limit, and what to do next."""
    verdict = "failed" if not check.ok else "skipped" if check.value == "skipped" else "ok"
    value = "" if verdict == "skipped" else _value_text(check)
    limit = f"limit {_limit_text(check)}" if check.limit is not None else ""
    parts = [f"{verdict:<{VERDICT_WIDTH}}{check.name:<{name_width}}"]
    parts.append(f"{value:<{VALUE_WIDTH}}{limit:<18}" if limit else value)
    parts.append(check.advice)
    return one_line_aligned("  ".join(part for part in parts if part))


def one_line_aligned(text: str) -> str:
    """Return the text without line breaks, its columns as they are."""
    return text.replace("\n", " ").replace("\r", " ").rstrip()


def summary(checks: Sequence[Check], seconds: float) -> str:
    """Return how many checks ran and how they ended."""
    n_failed = sum(not check.ok for check in checks)
    n_skipped = sum(check.value == "skipped" for check in checks)
    skipped = f", {n_skipped} skipped" if n_skipped else ""
    return (
        f"{len(checks) - n_failed - n_skipped} checks ok, {n_failed} failed{skipped}, "
        f"in {seconds:.0f} s"
    )


def _value_text(check: Check) -> str:
    value = check.value
    if isinstance(value, str) or value is None:
        return str(value)
    if check.unit == "error":
        return f"error {value:.1e}"
    if check.unit == "share":
        return f"{value:.0%} of the bandwidth"
    if check.unit == "bytes":
        return f"peak {size_text(int(value))}"
    if check.unit == "differences":
        return f"{value:,} values differ"
    return f"{value:,}"


def _limit_text(check: Check) -> str:
    limit = check.limit
    assert limit is not None
    if check.unit == "share":
        return f"{limit:.0%} at least"
    if check.unit == "bytes":
        return size_text(int(limit))
    return f"{limit:.1e}" if check.unit == "error" else f"{limit:,}"


def _size(n_bytes: object) -> str | None:
    """Return a size in words; 0, a limit that the system chooses, in words too."""
    if not isinstance(n_bytes, int):
        return None
    return size_text(n_bytes) if n_bytes else "chosen by the system"
