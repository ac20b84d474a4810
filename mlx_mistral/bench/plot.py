"""Two pictures of what was measured: speed behind more and more text, and the roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from mlx_mistral.errors import MlxMistralError

from .drawing import HEIGHT, WIDTH, Curve, Panel, Point, draw
from .results import Result

SUFFIXES = (".svg", ".png")
_DOTS = 100


def check_plot(path: Path) -> None:
    """Raises: MlxMistralError: no picture of this kind can be drawn here, or not there."""
    if path.suffix.lower() not in SUFFIXES:
        raise MlxMistralError(
            f"a plot is an .svg or a .png file, not {path.name}; name it FILE.svg"
        )
    if not path.resolve().parent.is_dir():
        raise MlxMistralError(f"no such folder, {path.parent}; make it first")
    if path.suffix.lower() == ".png":
        _matplotlib()


def write_plot(
    path: Path,
    results: Mapping[str, Sequence[Result]],
    *,
    bytes_per_second: float,
    flops_per_second: float,
) -> None:
    """Draws the results of programs by their names."""
    panels = [
        _by_depth(results),
        _roofline(results, bytes_per_second, flops_per_second),
    ]
    if path.suffix.lower() == ".png":
        _draw_png(path, panels)
    else:
        path.write_text(draw(panels), encoding="utf-8")


def _by_depth(results: Mapping[str, Sequence[Result]]) -> Panel:
    """A curve for each test of each program, without its depth."""
    curves: dict[str, list[Point]] = {}
    for program, found in results.items():
        for result in found:
            test = result.case.name.partition(" @ ")[0]
            name = f"{program}: {test}" if len(results) > 1 else test
            curves.setdefault(name, []).append((result.case.depth, result.tps))
    return Panel(
        title="Speed behind a text",
        x_title="tokens that the context holds already",
        y_title="tokens a second",
        curves=[Curve(name=name, points=sorted(points)) for name, points in curves.items()],
    )


def _roofline(
    results: Mapping[str, Sequence[Result]], bytes_per_second: float, flops_per_second: float
) -> Panel:
    """Where each test lies below what memory and arithmetic allow."""
    curves = []
    for program, found in results.items():
        points = [
            (work.flops_per_token / work.bytes_per_token, one.tps * work.flops_per_token)
            for one in found
            if (work := one.work)
        ]
        curves.append(Curve(name=program, points=points, is_line=False))
    ridge = flops_per_second / bytes_per_second
    xs = [x for curve in curves for x, _ in curve.points]
    left, right = min([*xs, ridge]) / 2, max([*xs, ridge]) * 2
    roof = [(left, left * bytes_per_second), (ridge, flops_per_second), (right, flops_per_second)]
    limit = f"limit: {bytes_per_second / 1e9:.3g} GB/s, {flops_per_second / 1e9:.3g} GFLOP/s"
    curves.append(Curve(name=limit, points=roof, has_marks=False))
    return Panel(
        title="The roofline",
        x_title="FLOP for each byte that must be moved",
        y_title="FLOP a second",
        curves=curves,
        log=True,
    )


def _draw_png(path: Path, panels: Sequence[Panel]) -> None:
    pyplot = _matplotlib()
    size = (WIDTH * len(panels) / _DOTS, HEIGHT / _DOTS)
    figure, axes = pyplot.subplots(1, len(panels), figsize=size, dpi=_DOTS)
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            style = ("o" if curve.has_marks else "") + ("-" if curve.is_line else "")
            axis.plot(*zip(*curve.points, strict=True), style, label=curve.name)
        axis.set(title=panel.title, xlabel=panel.x_title, ylabel=panel.y_title)
        if panel.log:
            axis.set(xscale="log", yscale="log")
        else:
            axis.set_ylim(bottom=0)
        axis.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def _matplotlib() -> Any:
    """Raises: MlxMistralError: matplotlib is not installed; it is nobody's dependency here."""
    try:
        matplotlib = import_module("matplotlib")
        matplotlib.use("Agg")
        return import_module("matplotlib.pyplot")
    except ImportError:
        raise MlxMistralError(
            "a .png needs matplotlib, which is not installed; name the plot FILE.svg"
        ) from None
