"""What is told of a token is what the model computed, and looking changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.live.commands import Watch
from mlx_mistral.live.events import Event, Piece, Routed
from mlx_mistral.live.figures import EVERY_SECONDS
from mlx_mistral.live.watcher import likeliest
from mlx_mistral.model import Model
from mlx_mistral.model.moe import SparseMoE
from tests.live.live_models import KINDS, asked, ids_of, live, make, of, text_of, tiny, user

BOTH = Watch(probabilities=True, experts=True)
MESSAGE = user("A message longer than any window here")


def replied(
    model: Model,
    watch: Watch | None,
    *,
    now: Callable[[], float] = lambda: 0.0,
    **settings: object,
) -> list[Event]:
    command = asked(MESSAGE, max_tokens=12, settings=settings)
    return make(live(model), command, watch=watch, now=now)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_watching_changes_no_token(kind: str, temperature: float) -> None:
    model = tiny(kind)
    off, on = (replied(model, w, temperature=temperature, seed=5) for w in (None, BOTH))
    assert [(p.token, p.text) for p in of(Piece, off)] == [(p.token, p.text) for p in of(Piece, on)]
    assert text_of(off)
    for piece in of(Piece, off):
        assert (piece.probability, piece.alternatives) == (None, ())
    assert not of(Routed, off)
    assert bool(of(Routed, on)) == (model.config.moe is not None)


def test_probabilities_are_the_softmax_of_a_fresh_read() -> None:
    model = tiny("full")
    pieces = of(Piece, replied(model, Watch(probabilities=True), temperature=1.3, seed=1))
    ids = [*ids_of([MESSAGE]), *(piece.token for piece in pieces)]
    logits = np.array(model(mx.array([ids]))[0], dtype=np.float64)
    for place, piece in enumerate(pieces, start=len(ids_of([MESSAGE])) - 1):
        shares = np.exp(logits[place] - logits[place].max())
        shares /= shares.sum()
        assert piece.probability == pytest.approx(shares[piece.token], rel=1e-3)
        best = np.argsort(-shares)[:8]
        assert [one.token for one in piece.alternatives] == list(best)
        found = [one.probability for one in piece.alternatives]
        assert found == pytest.approx(list(shares[best]), rel=1e-3)
        assert [one.text for one in piece.alternatives] == [f"<{token}>" for token in best]


def test_a_vocabulary_of_fewer_tokens_than_alternatives_is_told_whole() -> None:
    seen = likeliest(mx.array([1.0, 3.0, 2.0]), mx.array([2]))
    assert sorted(seen["ids"].tolist()) == [0, 1, 2, 2]


def test_experts_are_those_that_the_routers_chose_for_the_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny("windowed")
    told = replied(model, Watch(experts=True), now=count(step=EVERY_SECONDS / 2.5).__next__)
    pieces, routed = of(Piece, told), of(Routed, told)
    chosen: list[np.ndarray] = []
    plain = SparseMoE.route

    def noting(self: SparseMoE, x: mx.array) -> tuple[mx.array, mx.array]:
        out = plain(self, x)
        chosen.append(np.sort(np.array(out[0])[0], axis=-1))
        return out

    monkeypatch.setattr(SparseMoE, "route", noting)
    prompt = ids_of([MESSAGE])
    model(mx.array([[*prompt, *(piece.token for piece in pieces)]]))
    by_layer = np.stack(chosen)[:, len(prompt) - 1 : -1]  # (L, T, k)
    n_experts = model.layers[0].block_sparse_moe.switch_mlp._num_experts
    place = 0
    for one in routed:
        layers = by_layer[:, place : place + one.tokens].reshape(len(by_layer), -1)
        expected = [np.bincount(layer, minlength=n_experts).tolist() for layer in layers]
        assert [list(layer) for layer in one.counts] == expected
        place += one.tokens
    assert place == len(pieces)
    assert len(routed) > 2
    assert all(piece.probability is None for piece in pieces)


def test_a_model_without_experts_tells_of_none() -> None:
    told = replied(tiny("full"), BOTH)
    pieces = of(Piece, told)
    assert pieces
    assert not of(Routed, told)
    assert all(piece.probability is not None for piece in pieces)


def test_after_a_reply_no_router_tells_any_more() -> None:
    model = tiny("windowed")
    replied(model, BOTH)
    assert all(layer.block_sparse_moe.on_route is None for layer in model.layers)
