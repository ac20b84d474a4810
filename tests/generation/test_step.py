"""A step that is traced and replayed draws what the step built anew draws."""

from __future__ import annotations

import gc
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import active_backend
from mlx_mistral.generation import BatchGenerator, Sampling, generate_ids
from mlx_mistral.generation.replay import Replay
from mlx_mistral.generation.speculate import generate_with_drafts
from mlx_mistral.model import Model, fuse

pytestmark = pytest.mark.skipif(
    not active_backend().can_compile(), reason="MLX compiles nothing on this machine"
)

SAMPLED = {"temp": 0.9, "top_k": 20, "top_p": 0.9, "seed": 7}


def model_of(family: str, **changes: Any) -> Model:
    model = tiny_model(tiny_config(**{**FAMILIES[family], **changes}))
    fuse(model)
    return model


def drawn(model: Model, prompt: list[int], n: int, **sampling: Any) -> tuple[list[int], np.ndarray]:
    steps = list(
        generate_ids(
            model, prompt, cache=model.make_cache(), sampling=Sampling(**sampling), max_tokens=n
        )
    )
    return [one.token for one in steps], np.stack([np.array(one.logits) for one in steps])


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each step asked for, whether it could be replayed."""
    told: list[bool] = []
    original = Replay.forms

    def forms(self: Replay, n_new: int = 1) -> Any:
        made = original(self, n_new)
        told.append(made is not None)
        return made

    monkeypatch.setattr(Replay, "forms", forms)
    return told


def built_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backend, "can_compile", lambda self: False)


@pytest.mark.parametrize("sampling", [{}, SAMPLED, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_and_logits_are_those_of_the_step_built_anew(
    family: str, sampling: Any, replays: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = model_of(family), random_ids(4)
    tokens, logits = drawn(model, prompt, 12, **sampling)
    assert replays == [True] * 11
    built_anew(monkeypatch)
    expected, expected_logits = drawn(model, prompt, 12, **sampling)
    assert replays[11:] == [False] * 11
    assert tokens == expected
    np.testing.assert_allclose(logits, expected_logits, atol=2e-5)


@pytest.mark.parametrize("n_prompt", [58, 250])
@pytest.mark.parametrize("window", [None, 62, 256, 300])
def test_nothing_changes_where_a_buffer_grows_or_a_ring_fills(
    n_prompt: int, window: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = model_of("mistral", sliding_window=window), random_ids(n_prompt)
    _, logits = drawn(model, prompt, 12)
    built_anew(monkeypatch)
    np.testing.assert_allclose(logits, drawn(model, prompt, 12)[1], atol=2e-5)


@pytest.mark.parametrize("family", ["mistral", "mistral-window", "ministral"])
def test_a_cache_that_is_trimmed_goes_on(family: str) -> None:
    model, prompt = model_of(family), random_ids(30)
    cache = model.make_cache()
    steps = generate_ids(model, prompt, cache=cache, sampling=Sampling(), max_tokens=20)
    made = [next(steps).token for _ in range(8)]
    steps.close()
    surplus = cache[0].offset - (len(prompt) + 7)
    for one in cache:
        one.trim(surplus)
    rest = generate_ids(model, made[-1:], cache=cache, sampling=Sampling(), max_tokens=12)
    assert made + [one.token for one in rest] == drawn(model, prompt, 20)[0]


@pytest.mark.parametrize("lengths", [(9, 9), (9, 7), (9, 4)])
def test_texts_of_any_lengths_are_replayed_together(
    lengths: tuple[int, int], replays: list[bool]
) -> None:
    model = model_of("mixtral-window")
    prompts = [random_ids(n, seed=i) for i, n in enumerate(lengths)]
    batch = BatchGenerator(model)
    for prompt in prompts:
        batch.insert(prompt, max_tokens=8)
    steps = [batch.next() for _ in range(8)]
    assert replays == [True] * 7
    for row, prompt in enumerate(prompts):
        made = [new.token for step in steps for new in step if new.id == row]
        assert made == drawn(model, prompt, 8)[0]


def test_a_router_that_is_listened_to_tells_every_pass(
    replays: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, heard = model_of("mixtral"), []
    listener = heard.append
    model.layers[1].block_sparse_moe.on_route = listener
    drawn(model, random_ids(5), 6)
    assert replays == [True] * 5
    assert model.layers[1].block_sparse_moe.on_route is listener
    replayed = [one.tolist() for one in heard]
    heard.clear()
    built_anew(monkeypatch)
    drawn(model, random_ids(5), 6)
    assert replayed == [one.tolist() for one in heard]
    assert len(replayed) == 1 + 5


def test_a_router_may_be_listened_to_for_a_while(replays: list[bool]) -> None:
    model, heard = model_of("mixtral"), []
    router = model.layers[0].block_sparse_moe
    steps = generate_ids(
        model, random_ids(5), cache=model.make_cache(), sampling=Sampling(), max_tokens=9
    )
    made = []
    for listener in (None, heard.append, None):
        router.on_route = listener
        made += [next(steps).token for _ in range(3)]
    assert made == drawn(model, random_ids(5), 9)[0]
    assert len(heard) == 3
    assert all(replays)


@pytest.mark.parametrize("ids", [[1, 2, 3], [4, 5, 6, 7] * 5])
def test_what_a_reply_held_is_freed_with_it(ids: list[int]) -> None:
    """At once: caches in a cycle would wait for Python's collector, which counts no bytes."""
    model = model_of("mixtral")
    gc.collect()
    gc.disable()
    try:
        held = []
        for _ in range(3):
            steps = generate_with_drafts if len(ids) > 3 else generate_ids
            list(steps(model, ids, cache=model.make_cache(), sampling=Sampling(), max_tokens=40))
            mx.synchronize()
            held.append(mx.get_active_memory())
        assert held[2] - held[0] < 1 << 13
    finally:
        gc.enable()
