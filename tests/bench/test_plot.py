"""The two pictures are well-formed, whatever names they hold."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlx_mistral.bench.cases import Case
from mlx_mistral.bench.drawing import Curve, Panel, Scale, draw
from mlx_mistral.bench.plot import check_plot, write_plot
from mlx_mistral.bench.program import Trial
from mlx_mistral.bench.results import Result, result_of
from mlx_mistral.bench.traffic import Work
from mlx_mistral.errors import MlxMistralError

SVG = "{http://www.w3.org/2000/svg}"


def result(case: Case, seconds: float) -> Result:
    trials = [Trial(first_seconds=seconds, decode_seconds=seconds, peak_bytes=1)]
    work = Work(bytes_per_token=1000, flops_per_token=4000)
    return result_of(case, trials, others_bytes=0, work=work, bytes_per_second=1e6)


def test_a_curve_for_each_test_of_each_program_and_the_roof(tmp_path: Path) -> None:
    cases = [Case(gen_tokens=8, depth=depth) for depth in (0, 64, 256)]
    cases += [Case(prompt_tokens=8, depth=depth) for depth in (0, 64, 256)]
    results = {
        name: [result(case, seconds) for case in cases]
        for name, seconds in (("a <b> & \x1b[31m", 1.0), ("mlx-lm", 2.0))
    }
    path = tmp_path / "speed.svg"
    write_plot(path, results, bytes_per_second=1e6, flops_per_second=1e8)
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{SVG}svg"
    by_depth, roofline = root.findall(f"{SVG}g")
    assert len(by_depth.findall(f"{SVG}polyline")) == 4
    assert len(by_depth.findall(f"{SVG}circle")) == 12
    assert len(roofline.findall(f"{SVG}polyline")) == 1
    assert len(roofline.findall(f"{SVG}circle")) == 12
    words = "".join(text.text or "" for text in root.iter(f"{SVG}text"))
    assert "a <b> &  [31m: tg8" in words


def test_everything_lies_within_the_picture() -> None:
    curve = Curve(name="one", points=[(0, 1.5), (300, 7.25), (32768, 0)])
    for log in (False, True):
        points = [(x + 1, y + 1) for x, y in curve.points] if log else curve.points
        panel = Panel(title="", x_title="", y_title="", log=log,
                      curves=[Curve(name="one", points=points)])  # fmt: skip
        root = ElementTree.fromstring(draw([panel]))
        _, _, width, height = map(float, root.get("viewBox", "").split())
        for circle in root.iter(f"{SVG}circle"):
            assert 0 <= float(circle.get("cx", "nan")) <= width
            assert 0 <= float(circle.get("cy", "nan")) <= height


@pytest.mark.parametrize("top", [0.0, 0.003, 1.0, 4.9, 128.0, 32768.0, 1e9])
def test_ticks_are_few_round_and_reach_the_largest_value(top: float) -> None:
    ticks = Scale([0.0, top], 0, 100, log=False).ticks
    assert ticks[-1] >= top * (1 - 1e-9)
    assert 2 <= len(ticks) <= 6
    mantissa = ticks[1] / 10 ** math.floor(math.log10(ticks[1]) + 1e-9)
    assert any(mantissa == pytest.approx(nice) for nice in (1, 2, 5))


@pytest.mark.parametrize(
    ("name", "message"),
    [("speed.pdf", r"an \.svg or a \.png file"), ("nowhere/speed.svg", "no such folder"),
     ("speed.png", "needs matplotlib")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_said_before_anything_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MlxMistralError, match=message):
        check_plot(tmp_path / name)
