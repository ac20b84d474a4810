"""The scripts beside the package: their models load everywhere, their counts are right."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import mlx.core as mx
import pytest

from mlx_mistral import load_model

pytest.importorskip("mlx_lm", reason="mlx-lm belongs to the test extra")
SCRIPTS = Path(__file__).parents[2] / "benchmarks"
NAMES = ("launches", "speed", "synthetic", "torch_transformers")


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    if not SCRIPTS.is_dir():
        pytest.skip("benchmarks/ lies in a checkout only")
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in NAMES:
            del sys.modules[name]


def small(scripts: SimpleNamespace, *, experts: int = 0) -> object:
    return scripts.synthetic.Shape(
        dim=64, n_layers=3, n_heads=2, n_kv_heads=1, hidden_dim=64, vocab_size=64, experts=experts
    )


def test_rows_compare_random_models_in_both_programs(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scripts.synthetic.SHAPES, "mistral-demo", small(scripts))
    monkeypatch.setitem(scripts.synthetic.SHAPES, "mixtral-demo", small(scripts, experts=4))
    run = scripts.speed.Run(folder=tmp_path, trials=1)
    case = scripts.speed.Case(gen_tokens=4)
    lines = list(run.compare("row", ("mistral-demo", "mixtral-demo"), [case]))
    assert [line.model for line in lines] == [
        "mistral-demo", "mixtral-demo", "mistral-demo 4-bit", "mixtral-demo 4-bit"
    ]  # fmt: skip
    assert {line.remark for line in lines} == {"same text"}


def test_experts_renamed_for_transformers_are_the_same_model(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    shape = small(scripts, experts=4)
    plain = scripts.synthetic.write_model(tmp_path / "plain", shape)
    renamed = scripts.synthetic.write_model(tmp_path / "renamed", shape)
    scripts.torch_transformers.as_transformers_names(renamed)
    stored = mx.load(str(renamed / "model-00001.safetensors"))
    assert "model.layers.2.block_sparse_moe.experts.3.w2.weight" in stored
    assert not any("switch_mlp" in name for name in stored)
    ids = mx.array([[5, 9, 33]])
    assert mx.array_equal(load_model(str(plain))(ids), load_model(str(renamed))(ids))


def test_launches_are_counted_as_a_gpu_makes_them(scripts: SimpleNamespace, tmp_path: Path) -> None:
    """mlx-lm's Mistral, by its source: seven products a layer and the head; norms twice a layer
    and at the end, rope for queries and keys, one attention; a write of keys and one of values;
    two additions; one compiled activation."""
    folder = str(scripts.synthetic.write_model(tmp_path / "small", small(scripts)))
    counted = scripts.launches.launches(lambda: scripts.speed.MlxLm(folder))
    fused = next(n for name, n in counted.items() if name.startswith("Compiled"))
    assert (counted["Matmul"], counted["Softmax"], counted["SliceUpdate"]) == (22, 16, 6)
    assert (counted["Add"], fused) == (6, 3)
    assert not {"Transpose", "Broadcast", "Slice"} & set(counted)


def test_a_steps_time_is_split(scripts: SimpleNamespace, tmp_path: Path) -> None:
    folder = str(scripts.synthetic.write_model(tmp_path / "small", small(scripts), bits=4))
    program = scripts.speed.Ours(folder)
    found = scripts.launches.host_time(program, steps=12)
    assert found.host_ms == found.build_ms + found.submit_ms
    assert min(found.build_ms, found.submit_ms, found.token_ms) > 0
