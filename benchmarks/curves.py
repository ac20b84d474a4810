"""Curves over a logarithmic axis, drawn as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlx_mistral.bench.drawing import label, line

WIDTH, HEIGHT = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 84, 24, 24, 56


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Points joined by a line, with a name."""

    name: str
    colour: str
    points: Sequence[tuple[float, float]]


class Axes:
    """Where values lie in the drawing: x linear, y logarithmic, whole units and decades around."""

    def __init__(self, curves: Sequence[Curve]) -> None:
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [math.log10(y) for curve in curves for _, y in curve.points]
        self.x_range = math.floor(min(xs)), math.ceil(max(xs))
        self.y_range = math.floor(min(ys)), math.ceil(max(ys))

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return TOP + (high - math.log10(value)) / (high - low) * (HEIGHT - TOP - BOTTOM)


def draw(curves: Sequence[Curve], *, x_title: str, y_title: str) -> str:
    """An SVG document."""
    axes = Axes(curves)
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>', *_grid(axes)]
    parts += [label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x_title)]
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts += [label(18, middle, y_title, turned=True)]
    for number, curve in enumerate(curves):
        parts += [*_curve(axes, curve), _name(number, curve)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="13">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _grid(axes: Axes) -> list[str]:
    parts = []
    for value in range(axes.x_range[0], axes.x_range[1] + 1):
        x = axes.x(value)
        parts.append(line(x, TOP, x, HEIGHT - BOTTOM))
        parts.append(label(x, HEIGHT - BOTTOM + 18, str(value)))
    for power in range(axes.y_range[0], axes.y_range[1] + 1):
        y = axes.y(10.0**power)
        parts.append(line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(label(LEFT - 8, y + 4, f"{10.0**power:g}", anchor="end"))
    return parts


def _curve(axes: Axes, curve: Curve) -> list[str]:
    places = [(axes.x(x), axes.y(y)) for x, y in curve.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return [
        f'<polyline points="{path}" fill="none" stroke="{curve.colour}" stroke-width="2"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{curve.colour}"/>' for x, y in places),
    ]


def _name(number: int, curve: Curve) -> str:
    """In the upper right, where falling curves leave room."""
    x, y = WIDTH - RIGHT - 12, TOP + 24 + 20 * number
    return label(x, y, curve.name, anchor="end", colour=curve.colour)
