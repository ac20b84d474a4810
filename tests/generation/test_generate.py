"""Ids in, ids out: the same tokens however a prompt is cut or interrupted."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
import reference
from tiny import FAMILIES, random_ids, tiny_config, tiny_model, weights_of

from mlx_mistral.errors import CheckpointError, ContextError, MlxMistralError
from mlx_mistral.generation import Sampling, generate_ids, room_in
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.model import Model


def model_of(family: str, **changes: object) -> Model:
    return tiny_model(tiny_config(**{**FAMILIES[family], **changes}))


def tokens(model: Model, prompt: list[int], max_tokens: int = 12, **options: object) -> list[int]:
    options = {"cache": model.make_cache(), "sampling": Sampling(), **options}
    return [s.token for s in generate_ids(model, prompt, max_tokens=max_tokens, **options)]  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_are_the_likeliest_of_the_specification(family: str) -> None:
    model, text = model_of(family), random_ids(14)
    weights = weights_of(model)
    for token in tokens(model, list(text), max_tokens=6):
        scores = reference.logits(model.config, weights, text)[-1]
        assert scores[token] == pytest.approx(scores.max(), abs=1e-4)
        text.append(token)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_tokens_do_not_depend_on_the_prefill_chunk(family: str) -> None:
    model, prompt = model_of(family), random_ids(40)
    expected = tokens(model, prompt)
    for step_size in (1, 2, 5, 6, 7, 39, 40, 41):
        assert tokens(model, prompt, prefill_step_size=step_size) == expected


def test_progress_tells_every_chunk() -> None:
    told: list[tuple[int, int]] = []
    tokens(
        model_of("mistral"),
        random_ids(20),
        prefill_step_size=8,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(0, 20), (8, 20), (16, 20), (20, 20)]


@pytest.mark.parametrize("n_prompt", [7, 8, 9, 16, 17])
def test_prefill_reads_each_token_once_and_gives_the_last_logits(n_prompt: int) -> None:
    model, ids = model_of("mixtral-window"), random_ids(n_prompt)
    cache = model.make_cache()
    logits = prefill(model, mx.array([ids]), cache, step_size=8)
    assert cache[0].offset == n_prompt
    assert np.abs(np.array(logits) - np.array(model(mx.array([ids]))[:, -1])).max() < 1e-5


@pytest.mark.parametrize("family", ["mistral", "mixtral-window", "ministral"])
@pytest.mark.parametrize("stop_after", [1, 2, 9])
def test_a_cache_goes_on_where_the_caller_stopped(family: str, stop_after: int) -> None:
    model, prompt = model_of(family), random_ids(9)
    expected = tokens(model, prompt, max_tokens=20)
    cache = model.make_cache()
    steps = generate_ids(model, prompt, cache=cache, sampling=Sampling(), max_tokens=20)
    made = [next(steps).token for _ in range(stop_after)]
    steps.close()
    unread = (prompt + made)[cache[0].offset :] or made[-1:]
    for one in cache:
        one.trim(one.offset - (len(prompt) + stop_after - len(unread)))
    assert made + tokens(model, unread, max_tokens=20 - stop_after, cache=cache) == expected


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[Model, int], None]:
    """Raises KeyboardInterrupt in the third layer of the n-th pass from now."""

    def install(model: Model, nth: int) -> None:
        layer, calls = type(model.layers[2]), [0]
        original = layer.__call__

        def call(self: object, *args: object) -> mx.array:
            calls[0] += self is model.layers[2]
            if self is model.layers[2] and calls[0] == nth:
                raise KeyboardInterrupt
            return original(self, *args)

        monkeypatch.setattr(layer, "__call__", call)

    return install


@pytest.mark.parametrize("family", ["mistral", "mixtral-window", "ministral"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 9])
def test_an_interrupt_between_two_layers_leaves_all_at_the_same_place(
    family: str,
    nth: int,
    interrupt: Callable[[Model, int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Passes 1 to 3 are chunks of the prompt, the 4th is traced, later ones are replayed whole."""
    if nth > 4:
        monkeypatch.setattr("mlx_mistral.backend.ops.Backend.can_compile", lambda self: False)
    model, prompt = model_of(family), random_ids(24)
    expected = tokens(model, prompt, max_tokens=20)
    cache = model.make_cache()
    interrupt(model, nth)
    made: list[int] = []
    steps = generate_ids(
        model, prompt, cache=cache, sampling=Sampling(), max_tokens=20, prefill_step_size=8
    )
    with pytest.raises(KeyboardInterrupt):
        made.extend(step.token for step in steps)
    offset = cache[0].offset
    assert {one.offset for one in cache} == {offset}
    assert offset == (8 * (nth - 1) if nth <= 3 else 24 + nth - 4)
    text = (prompt + expected)[offset:]
    unread, n_made = text[: max(1, 24 - offset)], max(0, offset + 1 - 24)
    assert tokens(model, unread, max_tokens=20 - n_made, cache=cache) == expected[n_made:]


def test_the_pipeline_runs_one_step_ahead_and_no_further() -> None:
    model, prompt = model_of("mistral"), random_ids(5)
    cache = model.make_cache()
    steps = generate_ids(model, prompt, cache=cache, sampling=Sampling(), max_tokens=3)
    assert [cache[0].offset for _ in steps] == [6, 7, 7]


@pytest.mark.parametrize("max_tokens", [0, -1])
def test_no_tokens_asked_for_are_no_tokens_made(max_tokens: int) -> None:
    model = model_of("mistral")
    cache = model.make_cache()
    assert tokens(model, [1, 2], max_tokens=max_tokens, cache=cache) == []
    assert cache[0].empty()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "empty"), ([1, 61], "token 1 .* id 61"), ([-1], "token 0 .* id -1")],
)
def test_a_prompt_is_checked_before_it_reaches_the_device(prompt: list[int], message: str) -> None:
    with pytest.raises(MlxMistralError, match=message):
        tokens(model_of("mistral"), prompt)


def test_generation_ends_with_the_context() -> None:
    model, prompt = model_of("mistral"), random_ids(6)
    assert tokens(model, prompt, 50, cache=model.make_cache(context=10)) == tokens(model, prompt, 4)


@pytest.mark.parametrize("n_prompt", [10, 11])
def test_a_prompt_that_leaves_no_room_is_refused(n_prompt: int) -> None:
    model, prompt = model_of("mistral"), random_ids(n_prompt)
    with pytest.raises(ContextError, match=f"{n_prompt} tokens, the context holds 10"):
        tokens(model, prompt, cache=model.make_cache(context=10))
    long = model_of("mistral", max_seq_len=10)
    with pytest.raises(ContextError, match="context holds 10"):
        tokens(long, prompt)


def test_room_is_what_the_tightest_limit_leaves() -> None:
    model = model_of("ministral", max_seq_len=30)
    assert room_in(model.make_cache(), model.config) == 30
    assert room_in(model.make_cache(context=12), model.config) == 12
    assert room_in(model_of("mistral").make_cache(), tiny_config()) is None


@pytest.mark.parametrize("broken", ["model.norm.weight", "one row of the head"])
def test_nan_logits_are_told_and_not_sampled(broken: str) -> None:
    model = model_of("mistral")
    if broken == "model.norm.weight":
        model.model.norm.weight *= float("nan")
    else:
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(CheckpointError, match="NaN"):
        tokens(model, [1, 2], max_tokens=3)


def test_a_pass_that_the_device_refuses_leaves_empty_caches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, prompt = tiny_model(tiny_config(sliding_window=6)), random_ids(30)
    cache = model.make_cache()
    prefill(model, mx.array([prompt[:10]]), cache, step_size=8)

    def refuses(*args: object) -> None:
        raise RuntimeError("unable to allocate")

    with monkeypatch.context() as patch:
        patch.setattr(mx, "eval", refuses)
        with pytest.raises(RuntimeError):
            prefill(model, mx.array([prompt[10:]]), cache, step_size=8)
    assert all(one.empty() for one in cache)
    again = prefill(model, mx.array([prompt]), cache, step_size=8)
    assert mx.allclose(again, prefill(model, mx.array([prompt]), model.make_cache(), step_size=8))
