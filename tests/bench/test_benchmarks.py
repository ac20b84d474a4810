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
NAMES = ("depths", "launches", "speed", "synthetic", "token_time", "torch_transformers")


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


def test_this_programs_step_launches_what_its_source_says(
    scripts: SimpleNamespace, tmp_path: Path
) -> None:
    """Four products a layer and the head; one rotation of queries and keys together."""
    folder = str(scripts.synthetic.write_model(tmp_path / "small", small(scripts)))
    counted = scripts.launches.launches(lambda: scripts.speed.Ours(folder))
    fused = next(n for name, n in counted.items() if name.startswith("CompiledSigmoid"))
    assert (counted["Matmul"], counted["Softmax"], counted["DynamicSliceUpdate"]) == (13, 13, 6)
    assert (counted["Add"], fused) == (6, 3)
    assert not {"AsType", "Concatenate", "Contiguous", "Copy"} & set(counted)


def test_a_steps_time_is_split(scripts: SimpleNamespace, tmp_path: Path) -> None:
    folder = str(scripts.synthetic.write_model(tmp_path / "small", small(scripts), bits=4))
    program = scripts.speed.Ours(folder)
    found = scripts.launches.host_time(program, steps=12)
    assert found.host_ms == found.build_ms + found.submit_ms
    assert min(found.build_ms, found.submit_ms, found.token_ms) > 0


@pytest.mark.parametrize("experts", [0, 4])
def test_a_tokens_products_are_those_with_every_matrix_that_it_meets(
    scripts: SimpleNamespace, tmp_path: Path, experts: int
) -> None:
    shape = small(scripts, experts=experts)
    model = load_model(scripts.synthetic.write_model(tmp_path / "small", shape))
    outs = scripts.token_time.products(model, shape)()
    per_layer = 8 if experts else 7
    assert len(outs) == 3 * per_layer + 1
    last_dims = sum(out.shape[-1] for out in outs)
    feed_forward = 3 * 64 + (4 if experts else 0)
    assert last_dims == 3 * (64 + 2 * 32 + 64 + feed_forward) + 64
    mx.eval(outs)


def test_the_time_of_a_token_is_told_of_both_programs(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scripts.synthetic.SHAPES, "mistral-demo", small(scripts))
    run = scripts.speed.Run(folder=tmp_path, trials=1)
    ours, theirs = scripts.token_time.token_times(run, "mistral-demo", None)
    assert (ours.program, theirs.program) == ("mlx-mistral", "mlx-lm")
    assert ours.products == theirs.products
    assert ours.kernels == pytest.approx(ours.products + ours.writes + ours.others)
    assert ours.launches_per_layer < theirs.launches_per_layer
    assert min(ours.token, ours.host, ours.writes) > 0


def test_what_a_cache_writes_is_one_token_a_layer(scripts: SimpleNamespace, tmp_path: Path) -> None:
    shape = small(scripts)
    model = load_model(scripts.synthetic.write_model(tmp_path / "small", shape))
    caches = model.make_cache()
    write = scripts.token_time.cache_writes(caches, shape)
    mx.eval(write(), write())
    assert [one.offset for one in caches] == [2, 2, 2]
    assert mx.array_equal(caches[0].keys[:, :, 0], caches[2].keys[:, :, 1])


def test_growth_with_depth_is_told_by_what_is_read_more(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(scripts.synthetic.SHAPES, "mistral-demo", small(scripts))
    run = scripts.speed.Run(folder=tmp_path, trials=1)
    near, far = scripts.depths.depths(run, "mistral-demo", None, (40, 300))
    assert far.cache_bytes - near.cache_bytes == 260 * 2 * 3 * 32 * 4
    one = scripts.depths.Depth(depth=1, cache_bytes=1_000_000, token_ms=(1.0, 2.0))
    other = scripts.depths.Depth(depth=2, cache_bytes=3_000_000, token_ms=(1.5, 2.2))
    assert other.growth(one) == pytest.approx([250.0, 100.0])
