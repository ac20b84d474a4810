"""What training asks, how it steps, and that an interrupted run goes on as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.demo import objective
from mlx_mistral.demo.architecture import WINDOW, model_config
from mlx_mistral.demo.batches import VALUE_WEIGHT, ChatEncoder, EncodedChat, batches, encode_chat
from mlx_mistral.demo.corpus import SLOTS, known_values
from mlx_mistral.demo.objective import TOKENIZER
from mlx_mistral.demo.optimizer import orthogonalize
from mlx_mistral.demo.relay import reader_parameters, relay_loss
from mlx_mistral.demo.train import Progress, Settings, Trainer


@pytest.mark.parametrize("shape", [(16, 16), (3, 8, 24), (24, 8)])
def test_orthogonalized_matrices_have_singular_values_near_one(shape):
    g = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    u, values, v = np.linalg.svd(orthogonalize(mx.array(g)), full_matrices=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
    original = np.linalg.svd(g, full_matrices=False)
    wanted = original[0] @ original[2]
    assert np.vdot(u @ v, wanted) / np.vdot(wanted, wanted) > 0.9


def test_the_rate_warms_up_holds_and_falls_to_zero(tmp_path):
    settings = Settings(out=tmp_path, steps=1000, stable=0.5)
    rates = [Progress(step).rate(settings) for step in (0, 50, 200, 500, 750, 1000)]
    assert rates == pytest.approx([0.01, 0.51, 1, 1, 0.5, 0])


def test_handing_facts_on_counts_less_once_the_rates_fall(tmp_path):
    settings = Settings(out=tmp_path, steps=1000, stable=0.5)
    weights = [Progress(step).relay_weight(settings) for step in (0, 499, 500, 1000)]
    assert weights == [1.0, 1.0, 0.3, 0.3]


def test_replies_are_trained_before_questions_and_values_most():
    batch = next(batches(TOKENIZER, seed=0, start=0, rows=2, length=480, positions=288))
    assert batch.inputs.shape == (2, 480)
    np.testing.assert_array_equal(np.sort(batch.positions, axis=1), batch.positions)
    assert (batch.weights >= 1).mean() > 0.6
    assert (batch.weights == VALUE_WEIGHT).sum() > 2
    after = np.take_along_axis(batch.inputs, np.minimum(batch.positions + 1, 479), axis=1)
    inside = batch.positions < 479
    np.testing.assert_array_equal(after[inside], batch.targets[inside])


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
    shape = {"rows": 2, "length": 2 * WINDOW, "positions": WINDOW}
    batch = next(batches(TOKENIZER, seed=1, start=0, **shape))

    def trainer(out: Path) -> Trainer:
        out.mkdir(exist_ok=True)
        return Trainer(Settings(out=out, steps=10, workers=1, **shape))

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
