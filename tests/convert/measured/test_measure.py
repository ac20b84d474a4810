"""Damages, against quantizing one matrix at a time in a loaded model."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from tiny import random_ids

from mlx_mistral.checkpoint import Checkpoint, load_model
from mlx_mistral.config import QuantParams
from mlx_mistral.convert.measured import Damages, errors, measure
from mlx_mistral.convert.measured.curve import damages_from
from mlx_mistral.convert.measured.formats import CANDIDATES
from mlx_mistral.convert.measured.texts import sampled
from mlx_mistral.errors import ConversionError
from mlx_mistral.model import Model
from tests.checkpoint.models import hf_weights, write_hf
from tests.evaluation.folders import quantized_folder

IDS = random_ids(90, vocab_size=80)
PROBE = QuantParams(bits=3, group_size=32)
TEXTS = np.array([[1, *IDS[start : start + 29]] for start in (0, 29, 58)])
"""What 90 ids become at 30 tokens a text: the last three are dropped."""


def source(tmp_path: Path, *, moe: bool = False, tied: bool = False) -> Path:
    weights = hf_weights(moe=moe)
    weights = {name: 4 * array if array.ndim > 1 else array for name, array in weights.items()}
    if tied:
        del weights["lm_head.weight"]
    return write_hf(tmp_path, weights, moe=moe, tie_word_embeddings=tied)


def measured(folder: Path, **options: object) -> Damages:
    return measure(
        Checkpoint(folder), IDS, bos_id=1, dtype="float32", text_tokens=30, stored=mx.float32,
        **{"probes": [PROBE], **options},
    )  # fmt: skip


def divergence(model: Model, changed: Model) -> float:
    def log_probabilities(of: Model) -> np.ndarray:
        logits = np.array(of(mx.array(TEXTS)), np.float64)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    log_p, log_q = log_probabilities(model), log_probabilities(changed)
    return float((np.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def quantized_alone(folder: Path, path: str, params: QuantParams) -> Model:
    model = load_model(folder, dtype="float32")
    nn.quantize(model, params.group_size, params.bits, class_predicate=lambda p, _: p == path)
    return model


def matrices(folder: Path) -> list[str]:
    model = load_model(folder, dtype="float32")
    names = [
        name.removesuffix(".weight") for name, x in tree_flatten(model.parameters()) if x.ndim > 1
    ]
    return [name for name in names if not name.endswith("block_sparse_moe.gate")]


@pytest.mark.parametrize("case", [{}, {"moe": True}, {"tied": True}], ids=str)
def test_the_damage_at_the_probe_is_the_divergence_with_this_matrix_alone_quantized(
    case: dict[str, bool], tmp_path: Path
) -> None:
    folder = source(tmp_path, **case)
    damages, model = measured(folder), load_model(folder, dtype="float32")
    assert set(damages.by_path) == set(matrices(folder))
    for path in matrices(folder):
        direct = divergence(model, quantized_alone(folder, path, PROBE))
        assert damages.of(path)[PROBE] == pytest.approx(direct, rel=2e-3), path
    assert damages.tokens == damages.branch_tokens == TEXTS.size


def test_other_formats_follow_the_errors_of_the_matrix_outputs(tmp_path: Path) -> None:
    """Of the first layer's v_proj, whose inputs are easily computed otherwise."""
    folder = source(tmp_path)
    path = "model.layers.0.self_attn.v_proj"
    damages = measured(folder).of(path)
    model = load_model(folder, dtype="float32")
    x = np.array(model.layers[0].input_layernorm(model.model.embed_tokens(mx.array(TEXTS))))
    weight = model.layers[0].self_attn.v_proj.weight

    def error(params: QuantParams) -> float:
        kind = {"group_size": params.group_size, "bits": params.bits}
        moved = np.array(weight - mx.dequantize(*mx.quantize(weight, **kind), **kind))
        return float(np.square(np.einsum("btc,rc->btr", x, moved)).sum())

    for params in [QuantParams(bits=2, group_size=64), QuantParams(bits=5, group_size=32)]:
        expected = damages[PROBE] * error(params) / error(PROBE)
        assert damages[params] == pytest.approx(expected, rel=1e-3)


def test_large_matrices_are_taken_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = source(tmp_path, moe=True)
    whole = measured(folder)
    monkeypatch.setattr(errors, "CHUNK_WEIGHTS", 7 * 64)
    monkeypatch.setattr(errors, "OUTPUT_BYTES", 4 * 7 * 11)
    parts = measured(folder)
    for path in whole.by_path:
        assert parts.of(path) == pytest.approx(whole.of(path), rel=1e-4)


def test_an_experts_error_is_taken_on_the_tokens_that_it_works_on(tmp_path: Path) -> None:
    folder = source(tmp_path, moe=True)
    path = "model.layers.0.block_sparse_moe.switch_mlp.up_proj"
    damages = measured(folder).of(path)
    model = load_model(folder, dtype="float32")
    block = model.layers[0]
    x = model.model.embed_tokens(mx.array(TEXTS))
    rotation = model.model.rotation(0, x.shape[1], x.dtype)
    x = x + block.self_attn(block.input_layernorm(x), rotation, "causal")
    x = block.post_attention_layernorm(x)
    chosen = np.array(block.block_sparse_moe.route(x)[0]).reshape(-1, 2)
    rows, weight = np.array(x).reshape(chosen.shape[0], -1), block.block_sparse_moe.switch_mlp

    def error(params: QuantParams) -> float:
        kind = {"group_size": params.group_size, "bits": params.bits}
        exact = weight.up_proj.weight
        moved = np.array(exact - mx.dequantize(*mx.quantize(exact, **kind), **kind))
        pairs = [(row, e) for row, both in zip(rows, chosen, strict=True) for e in both]
        return sum(float(np.square(moved[e] @ row).sum()) for row, e in pairs)

    params = QuantParams(bits=2, group_size=64)
    expected = damages[PROBE] * error(params) / error(PROBE)
    assert damages[params] == pytest.approx(expected, rel=1e-3)


def test_fewer_bits_and_larger_groups_damage_more_and_16_bits_nothing(tmp_path: Path) -> None:
    damages = measured(source(tmp_path)).of("model.layers.1.self_attn.q_proj")
    assert damages[None] == 0
    for bits, more in pairwise((2, 3, 4, 5, 6, 8)):
        less = damages[QuantParams(bits=more, group_size=64)]
        assert damages[QuantParams(bits=bits, group_size=64)] > less
        assert damages[QuantParams(bits=more, group_size=32)] < less


def test_rows_of_96_get_only_groups_that_divide_them(tmp_path: Path) -> None:
    damages = measured(source(tmp_path)).of("model.layers.0.mlp.down_proj")
    assert {one.group_size for one in damages if one is not None} == {32}


def test_branches_walk_on_fewer_tokens_where_they_would_take_too_much_memory(
    tmp_path: Path,
) -> None:
    folder = source(tmp_path)
    one_text = (7 * 2 + 2) * 30 * 64 * 4
    few = measured(folder, branch_bytes=2 * one_text)
    assert (few.tokens, few.branch_tokens) == (90, 60)
    shorter = measured(folder, branch_bytes=one_text // 2)
    assert shorter.branch_tokens == 30


def test_parts_of_the_model_are_told_in_order(tmp_path: Path) -> None:
    heard: list[tuple[str, int, int]] = []
    measured(source(tmp_path), progress=lambda *told: heard.append(told))
    parts = ["embeddings", "layer 1", "layer 2", "head", "done"]
    assert heard == [(part, number, 4) for number, part in enumerate(parts)]


def test_between_two_probes_a_damage_follows_a_power_of_the_error() -> None:
    two, three, four = (QuantParams(bits=bits, group_size=64) for bits in (2, 3, 4))
    eight = QuantParams(bits=8, group_size=64)
    errors = {two: 16.0, three: 4.0, four: 1.0, eight: 0.01}
    damages = damages_from([errors], {two: 8.0, four: 0.5})
    assert damages[two] == pytest.approx(8.0)
    assert damages[four] == pytest.approx(0.5)
    assert damages[three] == pytest.approx(2.0)
    assert damages[eight] == pytest.approx(0.005)


def test_damages_survive_being_kept_as_json(tmp_path: Path) -> None:
    damages = measured(source(tmp_path))
    again = Damages.from_json(json.loads(json.dumps(damages.to_json())))
    assert again == damages
    assert again.importance.keys() == damages.importance.keys()
    for path, array in damages.importance.items():
        np.testing.assert_array_equal(np.array(again.importance[path]), np.array(array))


WHOLE = {
    "version": 1, "probes": ["affine-3-64"], "tokens": 1, "branch_tokens": 1,
    "damages": {"a": {"affine-4-64": 1.0}}, "importance": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        {},
        {**WHOLE, "version": 9},
        {**WHOLE, "damages": {"a": 3}},
        {**WHOLE, "damages": {"a": {"4": 1.0}}},
        {**WHOLE, "damages": {"a": {"affine-7-64": 1.0}}},
        {**WHOLE, "damages": {"a": {"affine-4-64": float("nan")}}},
        {**WHOLE, "damages": {"a": {"affine-4-64": -1.0}}},
        {**WHOLE, "importance": {"a": {"shape": [2], "float32": "AAAA"}}},
        {**WHOLE, "importance": {"a": {"shape": [-1], "float32": "AACAfw=="}}},
        {**WHOLE, "importance": {"a": {"shape": [1], "float32": "AACAfw=="}}},
        {**WHOLE, "importance": {"a": {"shape": [1], "float32": "!"}}},
    ],
)
def test_malformed_damages_are_refused(broken: object) -> None:
    assert Damages.from_json(WHOLE).tokens == 1
    with pytest.raises(ConversionError, match="measure again"):
        Damages.from_json(broken)


def test_a_quantized_model_is_refused(tmp_path: Path) -> None:
    folder = quantized_folder(source(tmp_path / "source"), tmp_path / "quantized")
    with pytest.raises(ConversionError, match="quantized already"):
        measured(folder)


def test_hardly_any_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="0 tokens"):
        measure(Checkpoint(source(tmp_path)), [], bos_id=1)


def test_candidates_are_what_mlx_quantizes() -> None:
    assert len(CANDIDATES) == len(set(CANDIDATES)) == 19


@pytest.mark.parametrize(("n", "most", "length"), [(1000, 100, 10), (1000, 99, 32), (50, 64, 8)])
def test_a_long_text_is_sampled_from_all_over(n: int, most: int, length: int) -> None:
    ids = list(range(n))
    found = sampled(ids, most, length)
    assert len(found) == min(n, most // length * length)
    assert found == sorted(found)
    assert (found[0], found[-1]) == (0, n - 1)
