"""Curves in panels, as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 560, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 44, 56
INK, GRID = "#333333", "#e2e2e2"
COLOURS = ("#d9480f", "#1864ab", "#2b8a3e", "#862e9c", "#5f3dc4", "#a61e4d", "#495057")

Point = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points with a name; joined by a line unless they are single measurements."""

    name: str
    points: Sequence[Point]
    is_line: bool = True
    has_marks: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A pair of axes; a logarithmic one shows whole decades."""

    title: str
    x_title: str
    y_title: str
    curves: Sequence[Curve]
    log: bool = False
    """Both axes; else x and y begin at 0."""


class Scale:
    """From values to places on the drawing."""

    def __init__(self, values: Sequence[float], start: float, end: float, *, log: bool) -> None:
        self._log, self._start, self._end = log, start, end
        if log:
            inside = [math.log10(value) for value in values if value > 0] or [0.0]
            low = math.floor(min(inside))
            high = max(math.ceil(max(inside)), low + 1)
            self.ticks = [10.0**n for n in range(low, high + 1)]
            self.low, self.high = float(low), float(high)
        else:
            step = _round_step(max([*values, 0.0]) / 5)
            n = max(1, math.ceil(max([*values, 0.0]) / step))
            self.low, self.high = 0.0, n * step
            self.ticks = [step * i for i in range(n + 1)]

    def __call__(self, value: float) -> float:
        at = math.log10(value) if self._log else value
        share = (at - self.low) / (self.high - self.low)
        return self._start + share * (self._end - self._start)


def draw(panels: Sequence[Panel]) -> str:
    """An SVG document, its panels side by side."""
    parts = [f'<rect width="{WIDTH * len(panels)}" height="{HEIGHT}" fill="white"/>']
    for n, panel in enumerate(panels):
        parts.append(f'<g transform="translate({n * WIDTH} 0)">')
        parts.extend(_panel(panel))
        parts.append("</g>")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH * len(panels)} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _panel(panel: Panel) -> Iterator[str]:
    points = [point for curve in panel.curves for point in curve.points]
    x = Scale([x for x, _ in points], LEFT, WIDTH - RIGHT, log=panel.log)
    y = Scale([y for _, y in points], HEIGHT - BOTTOM, TOP, log=panel.log)
    yield label(LEFT, 24, panel.title, anchor="start")
    for value in x.ticks:
        yield line(x(value), TOP, x(value), HEIGHT - BOTTOM)
        yield label(x(value), HEIGHT - BOTTOM + 18, _number(value))
    for value in y.ticks:
        yield line(LEFT, y(value), WIDTH - RIGHT, y(value))
        yield label(LEFT - 8, y(value) + 4, _number(value), anchor="end")
    yield label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, panel.x_title)
    yield label(18, (TOP + HEIGHT - BOTTOM) / 2, panel.y_title, turned=True)
    for number, curve in enumerate(panel.curves):
        yield from _curve(curve, x, y, COLOURS[number % len(COLOURS)])
        colour = COLOURS[number % len(COLOURS)]
        yield label(LEFT + 12, TOP + 20 + 18 * number, curve.name, anchor="start", colour=colour)


def _curve(curve: Curve, x: Scale, y: Scale, colour: str) -> Iterator[str]:
    places = [(x(a), y(b)) for a, b in curve.points]
    if curve.is_line:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
        yield f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    if curve.has_marks:
        for a, b in places:
            yield f'<circle cx="{a:.1f}" cy="{b:.1f}" r="4" fill="{colour}"/>'


def line(x1: float, y1: float, x2: float, y2: float) -> str:
    """A line of the grid."""
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GRID}"/>'


def label(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    colour: str = INK,
    turned: bool = False,
) -> str:
    """A text at a place, which may run upwards."""
    turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}"{turn}>'
        f"{escape(_printable(text))}</text>"
    )


def _printable(text: str) -> str:
    """XML knows no control characters, not even escaped."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def _number(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _round_step(least: float) -> float:
    """1, 2 or 5 times a power of ten, no less than asked for."""
    if least <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(least))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= least * (1 - 1e-9))
