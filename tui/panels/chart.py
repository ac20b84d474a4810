"""A row of figures as bars of braille dots."""

from __future__ import annotations

from collections.abc import Sequence

_LEFT, _RIGHT = (0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08)
"""The dots of a column from the lowest up, as Unicode numbers them."""


def braille_bars(values: Sequence[float], width: int, height: int) -> list[str]:
    """`height` lines of `width` cells: the last 2 * width values, the newest on the right.

    A cell holds two bars of four dots a line. The highest value reaches the top; whatever is
    above 0 has at least one dot.
    """
    if width < 1 or height < 1:
        return []
    shown = [max(float(value), 0.0) for value in values[-2 * width :]]
    shown = [0.0] * (2 * width - len(shown)) + shown
    top = max(shown)
    dots = [_dots(value, top, 4 * height) for value in shown]
    lines = []
    for row in reversed(range(height)):
        cells = (
            _column(dots[2 * x], row, _LEFT) | _column(dots[2 * x + 1], row, _RIGHT)
            for x in range(width)
        )
        lines.append("".join(chr(0x2800 + cell) for cell in cells))
    return lines


def _dots(value: float, top: float, most: int) -> int:
    return max(1, round(most * value / top)) if value > 0 else 0


def _column(dots: int, row: int, bits: tuple[int, ...]) -> int:
    return sum(bits[: max(0, min(4, dots - 4 * row))])
