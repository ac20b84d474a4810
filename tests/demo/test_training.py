"""Training computes what the shipped modules compute, only faster, and asks what it should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.demo import model_path, objective
from mlx_mistral.demo.architecture import WINDOW, model_config
from mlx_mistral.demo.batches import Batch, ChatEncoder, EncodedChat, batches, encode_chat
from mlx_mistral.demo.corpus import SLOTS, known_values
from mlx_mistral.demo.fast_forward import band, cross_entropy, experts, hidden_states
from mlx_mistral.demo.optimizer import orthogonalize
from mlx_mistral.demo.relay import reader_parameters, relay_loss
from mlx_mistral.demo.train import Settings, Trainer
from mlx_mistral.model import Model

TOKENIZER = model_path() / "tokenizer.model.v3"


@pytest.fixture(scope="module")
def model() -> Model:
    mx.random.seed(0)
    model = Model(model_config())
    mx.eval(model.parameters())
    return model


def a_batch(rows: int = 2, length: int = 2 * WINDOW) -> Batch:
    stream = batches(TOKENIZER, seed=1, start=0, rows=rows, length=length, positions=length // 2)
    return next(stream)


def test_dealing_tokens_to_experts_equals_the_module(model: Model) -> None:
    moe = model.layers[0].block_sparse_moe
    x = mx.random.normal((50, 128), key=mx.random.key(1))
    out, balance = experts(moe, x, capacity_factor=8.0)
    assert mx.abs(out - moe(x[None])[0]).max().item() < 1e-5
    assert 0.9 < balance.item() < 3.0


def test_the_fast_forward_pass_equals_the_models_own(model: Model) -> None:
    tokens = mx.random.randint(0, 2304, (2, 4 * WINDOW), key=mx.random.key(2))
    fast, _, states = hidden_states(model, tokens, band(4 * WINDOW, WINDOW), capacity_factor=8.0)
    own = model.model(tokens)
    assert mx.abs(fast - own).max().item() < 1e-3
    assert len(states) == model_config().n_layers


def test_the_fast_cross_entropy_and_its_gradient_are_the_definitions() -> None:
    logits = 4 * mx.random.normal((7, 11), key=mx.random.key(3))
    targets = mx.array([0, 3, 10, 5, 5, 1, 2])

    def plain(z: mx.array) -> mx.array:
        return (mx.logsumexp(z, axis=-1) - mx.take_along_axis(z, targets[:, None], -1)[:, 0]).sum()

    value, grad = mx.value_and_grad(lambda z: cross_entropy(z, targets).sum())(logits)
    expected, expected_grad = mx.value_and_grad(plain)(logits)
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    assert mx.abs(grad - expected_grad).max().item() < 1e-4


@pytest.mark.parametrize("shape", [(12, 20), (20, 12), (3, 8, 8)])
def test_muon_orthogonalizes_each_matrix(shape: tuple[int, ...]) -> None:
    x = np.array(orthogonalize(mx.random.normal(shape, key=mx.random.key(4))))
    singular = np.linalg.svd(x, compute_uv=False)
    assert singular.min() > 0.5
    assert singular.max() < 1.3


def test_a_fact_is_known_after_it_is_mentioned_and_the_last_mention_counts() -> None:
    chat = EncodedChat([], [], [(5, 0, 7), (20, 0, 9), (20, 2, 1)])
    facts, distances = chat.facts_at(np.array([5, 6, 20, 30], np.int32))
    assert facts[:, 0].tolist() == [-1, 7, 7, 9]
    assert distances[:, 0].tolist() == [0, 1, 15, 10]
    assert facts[:, 2].tolist() == [-1, -1, -1, 1]
    assert (facts[:, 1] == -1).all()


def test_mentions_lie_where_the_values_are() -> None:
    encoder = ChatEncoder(TOKENIZER)
    values, seen = known_values(), 0
    for i in range(30):
        chat = encode_chat(encoder, Random(i), 400)
        for position, slot, number in chat.mentions:
            assert 0 <= slot < len(SLOTS)
            ids = encoder.value_ids(values[number])
            if number >= 0 and position + len(ids) <= len(chat.ids):
                assert chat.ids[position : position + len(ids)] == ids
                seen += 1
    assert seen > 50


def test_the_relay_loss_asks_a_layer_only_what_is_in_its_reach() -> None:
    parameters = reader_parameters(16)
    states = [mx.random.normal((9, 16), key=mx.random.key(i)) for i in range(3)]
    facts = mx.array([[0, -1, -1, -1, -1]])

    def loss(distance: int, states: list[mx.array]) -> float:
        distances = mx.full((1, 5), distance)
        return relay_loss(parameters, states, mx.array([4]), facts, distances, 11).item()  # type: ignore[return-value]

    assert loss(31, states) == 0.0
    deepest = [mx.zeros_like(states[0])] * 2 + states[2:]
    assert loss(30, states) == pytest.approx(loss(30, deepest)) != loss(20, states)


def test_a_resumed_run_goes_on_as_if_it_had_not_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objective, "used_ids", lambda *_, **__: list(range(1, 1000)))
    small = replace(
        model_config(), n_layers=1, windows=(WINDOW,), dim=32, hidden_dim=16, n_heads=2, head_dim=8
    )
    monkeypatch.setattr(objective, "model_config", lambda: small)
    monkeypatch.setattr(mx, "compile", lambda function: function)
    batch = a_batch()

    def trainer(out: Path) -> Trainer:
        out.mkdir(exist_ok=True)
        return Trainer(Settings(out=out, steps=10, length=2 * WINDOW, rows=2, workers=1))

    whole = trainer(tmp_path / "whole")
    for _ in range(3):
        whole.step(batch)
    first = trainer(tmp_path / "parts")
    first.step(batch)
    first.save()
    second = trainer(tmp_path / "parts")
    second.resume()
    assert second.progress.step == 1
    for _ in range(2):
        second.step(batch)
    for name, parameter in whole.parameters.items():
        assert mx.abs(parameter - second.parameters[name]).max().item() < 1e-6, name
    for one in (whole, first, second):
        one.close()
