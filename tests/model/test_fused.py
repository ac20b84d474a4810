"""Products that are fused give the same numbers, and give way where a module is changed."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from tiny import FAMILIES, random_ids, run, tiny_config, tiny_model

from mlx_mistral.model import Model, fuse

WIDE = {"dim": 64, "hidden_dim": 64, "head_dim": 32, "n_heads": 4, "n_kv_heads": 2}
IDS = random_ids(20)


def logits(model: Model) -> np.ndarray:
    return run(model, IDS, [7, 1, 1, 11])


@pytest.mark.parametrize("bits", [None, 4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fused_model_gives_the_logits_of_its_parts(family: str, bits: int | None) -> None:
    model = tiny_model(tiny_config(**{**FAMILIES[family], **(WIDE if bits else {})}))
    if bits:
        nn.quantize(model, 32, bits)
    before = {name: np.array(one) for name, one in tree_flatten(model.parameters())}
    expected = logits(model)
    fuse(model)
    assert all(layer.self_attn.fused() for layer in model.layers)
    np.testing.assert_allclose(logits(model), expected, atol=2e-5)
    after = {name: np.array(one) for name, one in tree_flatten(model.parameters())}
    assert list(after) == list(before)
    assert all(np.array_equal(after[name], before[name]) for name in before)


def double_one_weight(model: Model) -> None:
    attention = model.layers[1].self_attn
    attention.k_proj.weight = attention.k_proj.weight * 2


def update_all(model: Model) -> None:
    model.update(tree_map(lambda weight: weight * 1.1, model.parameters()))


def replace_a_module(model: Model) -> None:
    attention = model.layers[0].self_attn
    linear = nn.Linear(
        attention.v_proj.weight.shape[1], attention.v_proj.weight.shape[0], bias=False
    )
    linear.weight = attention.v_proj.weight + 1
    attention.v_proj = linear


def replace_up(model: Model) -> None:
    model.layers[2].mlp.up_proj.weight = -model.layers[2].mlp.up_proj.weight


def quantize(model: Model) -> None:
    nn.quantize(model, 32, 4)


@pytest.mark.parametrize(
    "change", [double_one_weight, update_all, replace_a_module, replace_up, quantize]
)
def test_a_change_of_a_named_module_is_seen(change: Callable[[Model], None]) -> None:
    fused, plain = (tiny_model(tiny_config(**WIDE)) for _ in range(2))
    fuse(fused)
    before = logits(fused)
    for model in (fused, plain):
        change(model)
    np.testing.assert_allclose(logits(fused), logits(plain), atol=2e-5)
    assert np.abs(logits(fused) - before).max() > 1e-3


def test_a_changed_scale_of_a_quantized_weight_is_seen() -> None:
    model = tiny_model(tiny_config(**WIDE))
    nn.quantize(model, 32, 4)
    fuse(model)
    before, module = logits(model), model.layers[0].mlp.gate_proj
    module.scales = module.scales * 2
    assert np.abs(logits(model) - before).max() > 1e-3


def test_a_fused_model_can_be_trained() -> None:
    model, plain = (tiny_model(tiny_config()) for _ in range(2))
    fuse(model)

    def gradients(one: Model) -> dict[str, mx.array]:
        loss = nn.value_and_grad(one, lambda ids: one(ids).square().mean())
        return dict(tree_flatten(loss(mx.array([IDS]))[1]))

    expected = gradients(plain)
    for name, gradient in gradients(model).items():
        assert mx.allclose(gradient, expected[name], atol=1e-6), name
    assert all(layer.mlp.fused() is None for layer in model.layers)


def test_modules_of_different_forms_stay_apart() -> None:
    model = tiny_model(tiny_config(**WIDE))
    nn.quantize(model, 32, 4, class_predicate=lambda path, _: path.endswith(".v_proj"))
    expected = logits(model)
    fuse(model)
    assert all(layer.self_attn.fused() is None for layer in model.layers)
    assert all(layer.mlp.fused() for layer in model.layers)
    np.testing.assert_allclose(logits(model), expected, atol=2e-5)


def test_fusing_takes_no_memory_but_that_of_a_layer_for_a_moment() -> None:
    model = tiny_model(tiny_config(dim=256, hidden_dim=1024, n_heads=8, head_dim=32))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    fuse(model)
    layer_bytes = sum(one.nbytes for _, one in tree_flatten(model.layers[0].parameters()))
    assert mx.get_active_memory() - before < 0.02 * layer_bytes
    assert mx.get_peak_memory() - before <= layer_bytes
    mx.eval(model.parameters())
    assert mx.get_active_memory() - before < 0.02 * layer_bytes
