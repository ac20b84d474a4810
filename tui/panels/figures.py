"""Figures as a person reads them."""

from __future__ import annotations

_UNITS = ("B", "KB", "MB", "GB", "TB")


def bytes_text(n: int) -> str:
    """Three digits or so and a decimal unit: 812 B, 4.2 MB, 128 MB."""
    value, unit = float(n), 0
    while value >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.5 else 1
    return f"{value:.{digits}f} {_UNITS[unit]}"


def rate_text(tps: float) -> str:
    """Tokens a second, with a decimal only where one can be seen to move."""
    return f"{tps:,.0f}" if tps >= 99.5 else f"{tps:.1f}"


def percent_text(part: float, whole: float) -> str:
    return f"{100 * part / whole:.0f}%" if whole > 0 else "0%"


def probability_text(p: float) -> str:
    """Four figures wide at most: 42%, 0.3%, <0.1%."""
    if p >= 0.0995:
        return f"{100 * p:.0f}%"
    return f"{100 * p:.1f}%" if p >= 0.001 else "<0.1%"
