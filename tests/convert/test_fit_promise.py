"""A model that was converted to fit a budget is run to the end of its context inside it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral.checkpoint import load_model
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.convert import convert_checkpoint
from mlx_mistral.convert.fit import Room
from mlx_mistral.demo import model_path
from tests.convert.folders import write_family

RUN = """
import json, sys
import mlx.core as mx
from mlx_mistral import load_model, stream_generate

model = load_model(sys.argv[1])
context = int(sys.argv[2])
ids = [3 + n % 50 for n in range(context - 8)]
for _ in stream_generate(model, None, ids, max_tokens=8):
    pass
print(json.dumps(mx.get_peak_memory()))
"""


def peak_when_run(folder: Path, context: int) -> int:
    """What MLX has allocated at most, in a process that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(folder), str(context)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return int(json.loads(done.stdout))


@pytest.mark.parametrize("family", ["demo", "mistral", "mixtral"])
def test_a_fitted_model_stays_inside_its_budget(family: str, tmp_path: Path) -> None:
    source, context = Path(model_path()), 700
    if family != "demo":
        source, context = write_family(tmp_path / "source", family, vocab_size=4096), 500
    whole = convert_checkpoint(source, tmp_path / "whole", fit_bytes=10**9, context=context)
    assert set(whole.plan.formats.values()) == {None}
    # Less than the model as it is needs: its bits must give way.
    checkpoint = Checkpoint(source)
    needs = Room.of(checkpoint, 1, context).needs(whole.plan)
    budget = needs.total_bytes - needs.weights_bytes * 2 // 3
    fitted = convert_checkpoint(source, tmp_path / "fitted", fit_bytes=budget, context=context)
    assert fitted.weight_bytes < whole.weight_bytes
    peak = peak_when_run(fitted.dest, context)
    assert 0.5 * budget < peak <= budget
    assert peak_when_run(whole.dest, context) <= needs.total_bytes


@pytest.mark.parametrize("bits", [16, 4])
def test_loading_what_was_converted_stays_inside_the_plan_of_one_token(
    bits: int, tmp_path: Path
) -> None:
    """Nothing is cast; a layer's wide projections are held twice while they are joined."""
    source = write_family(tmp_path / "source", "mistral", intermediate_size=4096)
    made = convert_checkpoint(source, tmp_path / "made", bits=bits, dtype="float32")
    needs = Room.of(Checkpoint(source), 1, 1).needs(made.plan)
    mx.synchronize()
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model = load_model(made.dest, dtype="float32")
    peak = mx.get_peak_memory() - before
    del model
    assert needs.weights_bytes < peak <= needs.total_bytes
