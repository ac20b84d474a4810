"""One token a text: without a token axis, on kernels of the CPU's own making and on a GPU's."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from tiny import FAMILIES, random_ids, run, tiny_config, tiny_model

from mlx_mistral.model.norm import RMSNorm
from mlx_mistral.model.one_token import one_token_attention
from mlx_mistral.model.rope import RotaryEmbedding, Turns

TOLERANCE = 2e-5
YARN = {"yarn": {"factor": 4, "original_max_position_embeddings": 64, "beta": 4, "alpha": 1}}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("is_fused", [False, True])
def test_a_gpus_way_gives_the_cpus_logits(
    family: str, is_fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, ids = tiny_model(tiny_config(**FAMILIES[family])), random_ids(20)
    expected = run(model, ids, [7, 1, 1, 11])
    if is_fused:
        for layer in model.layers:
            layer.self_attn.fuse()
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert np.abs(run(model, ids, [7, 1, 1, 11]) - expected).max() < TOLERANCE


@pytest.mark.parametrize("extra", [{}, YARN], ids=["plain", "yarn"])
@pytest.mark.parametrize("position", [5, [0, 3, 31]])
def test_one_product_rotates_as_the_kernel_does(
    extra: dict[str, object], position: int | list[int]
) -> None:
    rope = RotaryEmbedding(tiny_config(head_dim=16, **extra))
    x = mx.random.normal((3, 4, 1, 16), key=mx.random.key(0))
    turns = rope.turns(mx.array(position), 1, mx.float32)
    assert isinstance(turns, Turns)
    assert mx.abs(rope(x, turns) - rope(x, mx.array(position))).max().item() < 1e-5


@pytest.mark.parametrize("n_heads", [2, 4, 6])
@pytest.mark.parametrize("is_masked", [False, True])
def test_queries_of_one_key_as_rows_see_what_they_see_alone(n_heads: int, is_masked: bool) -> None:
    keys = iter(mx.random.split(mx.random.key(n_heads), 4))
    q = mx.random.normal((3, n_heads, 1, 8), key=next(keys))
    k, v = (mx.random.normal((3, 2, 11, 8), key=next(keys)) for _ in range(2))
    mask = None
    if is_masked:
        mask = mx.random.bernoulli(0.6, (3, 1, 1, 11), key=next(keys)) | (mx.arange(11) == 4)
    expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
    found = one_token_attention(q, k, v, 0.3, mask)
    assert mx.abs(found - expected.reshape(3, -1)).max().item() < 1e-6


@pytest.mark.parametrize("shape", [(1, 24), (1, 1, 24), (3, 24), (2, 5, 24)])
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_a_row_is_normalized_as_many_are(shape: tuple[int, ...], dtype: mx.Dtype) -> None:
    norm, plain = RMSNorm(24, eps=1e-3), nn.RMSNorm(24, eps=1e-3)
    norm.weight = plain.weight = mx.random.normal((24,), key=mx.random.key(1)).astype(dtype)
    x = (0.1 * mx.random.normal(shape, key=mx.random.key(2))).astype(dtype)
    found, expected = norm(x), plain(x)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    assert mx.abs(found - expected).max().item() < 1e-6


def test_each_texts_experts_get_its_own_row() -> None:
    moe = tiny_model(tiny_config(**FAMILIES["mixtral"])).layers[0].block_sparse_moe
    x = mx.random.normal((3, 24), key=mx.random.key(3))
    alone = mx.concatenate([moe(x[None, row : row + 1])[0] for row in range(3)])
    assert mx.abs(moe(x) - alone).max().item() < 1e-6


def test_listeners_to_a_router_hear_of_a_token_axis() -> None:
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    heard: list[tuple[int, ...]] = []
    model.layers[0].block_sparse_moe.on_route = lambda chosen: heard.append(chosen.shape)
    model(mx.array([[3], [5]]))
    model(mx.array([[3, 4]]))
    assert heard == [(2, 1, 2), (1, 2, 2)]
