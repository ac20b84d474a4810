"""Every family against the NumPy specification, and what masks and routing owe to it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import reference
from tiny import FAMILIES, MOE, random_ids, run, tiny_config, tiny_model, weights_of

from mlx_mistral.backend.chunked_attention import chunked_attention
from mlx_mistral.backend.dispatch import Dispatch, SortedDispatch
from mlx_mistral.backend.select import use_backend
from mlx_mistral.cache import Band
from mlx_mistral.cache.mask import visible
from mlx_mistral.model import Model
from mlx_mistral.model.rope import RotaryEmbedding, yarn_periods

TOLERANCE = 2e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "chunks",
    [[29], [1] * 29, [4, 1, 1, 20, 3], [3, 13, 13]],
    ids=lambda c: "-".join(map(str, c[:5])),
)
def test_any_chunking_matches_the_specification(family: str, chunks: list[int]) -> None:
    config = tiny_config(**FAMILIES[family])
    model, ids = tiny_model(config), random_ids(29)
    expected = reference.logits(config, weights_of(model), ids)
    assert np.abs(run(model, ids, chunks) - expected).max() < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pass_without_a_cache_matches_the_specification(family: str) -> None:
    config = tiny_config(**FAMILIES[family])
    model, ids = tiny_model(config, seed=1), random_ids(40, seed=1)
    expected = reference.logits(config, weights_of(model), ids)
    assert np.abs(np.array(model(mx.array([ids]))[0]) - expected).max() < TOLERANCE


def test_the_window_moves_logits_by_far_more_than_the_tolerance() -> None:
    windowed, full = tiny_config(sliding_window=6), tiny_config()
    model, ids = tiny_model(windowed), random_ids(29)
    without = reference.logits(full, weights_of(model), ids)
    assert np.abs(run(model, ids, [29]) - without)[6:].max() > 0.1


def test_a_window_of_w_sees_w_keys_the_token_itself_included() -> None:
    seen = np.array(visible(mx.arange(7), mx.arange(7), 3))
    assert seen[6].tolist() == [False, False, False, False, True, True, True]
    assert seen.sum(axis=1).tolist() == [1, 2, 3, 3, 3, 3, 3]


@pytest.mark.parametrize("window", [None, 1, 2, 5, 8])
@pytest.mark.parametrize("n_past", [0, 1, 4])
@pytest.mark.parametrize("rows", [1, 4, 9, 30])
def test_attention_in_blocks_equals_the_masked_product(
    window: int | None, n_past: int, rows: int
) -> None:
    for n_new in (2, 9, 16, 17):
        rng = np.random.default_rng(n_new)
        q = mx.array(rng.normal(size=(2, 4, n_new, 8)).astype(np.float32))
        k, v = (
            mx.array(rng.normal(size=(2, 2, n_past + n_new, 8)).astype(np.float32))
            for _ in range(2)
        )
        columns = mx.arange(n_past + n_new)
        mask = visible(columns[n_past:], columns, window)
        expected = mx.fast.scaled_dot_product_attention(q, k, v, scale=0.3, mask=mask)
        chunked = chunked_attention(q, k, v, scale=0.3, window=window, query_chunk=rows)
        assert mx.abs(chunked - expected).max().item() < 1e-5


@pytest.mark.parametrize("window", [None, 40])
def test_attention_in_blocks_reads_no_key_outside_its_window(window: int | None) -> None:
    """A value that is not a number spoils all that multiply it, even by nothing."""
    rng = np.random.default_rng(0)
    q, k, v = (mx.array(rng.normal(size=(1, 2, 96, 8)).astype(np.float32)) for _ in range(3))
    spoilt, rows = 50, 16
    v[:, :, spoilt] = float("nan")
    attended = chunked_attention(q, k, v, scale=1.0, window=window, query_chunk=rows)
    out = np.isnan(np.array(attended)).any(axis=(0, 1, 3))
    block_of_it = spoilt // rows * rows
    last = 96 if window is None else -(-(spoilt + window) // rows) * rows
    assert not out[:block_of_it].any()
    assert not out[last:].any()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padding", [None, [0, 3]])
def test_the_last_token_alone_gets_what_it_gets_among_all(
    family: str, padding: list[int] | None
) -> None:
    model = tiny_model(tiny_config(**FAMILIES[family]))
    ids = mx.array([random_ids(19), random_ids(19)[::-1]])
    all_at_once, piecewise = (model.make_cache(left_padding=padding) for _ in range(2))
    for chunk in (ids[:, :7], ids[:, 7:18], ids[:, 18:]):
        expected = model.model(chunk, all_at_once)[:, -1:]
        found = model.model(chunk, piecewise, last_only=True)
        assert found.shape == expected.shape
        assert mx.abs(found - expected).max().item() < 1e-5
    held = zip(all_at_once, piecewise, strict=True)
    for one, other in held:
        for a, b in zip(one.state, other.state, strict=True):
            assert mx.array_equal(a, b)


def test_a_long_windowed_prefill_makes_no_mask_of_text_by_text() -> None:
    cache = tiny_model(tiny_config(sliding_window=6)).make_cache()[0]
    assert cache.make_mask(500) == Band(6)


def test_keys_and_values_stay_at_their_own_number_of_heads() -> None:
    model = tiny_model(tiny_config())
    cache = model.make_cache()
    model(mx.array([random_ids(9)]), cache)
    assert all(one.keys is not None and one.keys.shape == (1, 2, 256, 8) for one in cache)


@pytest.mark.parametrize("n", [1, 15, 16, 200])
def test_sorting_tokens_by_expert_changes_nothing(n: int) -> None:
    moe = tiny_model(tiny_config(**MOE)).layers[0].block_sparse_moe
    x = mx.random.normal((1, n, 24), key=mx.random.key(n))
    expert_ids, _ = moe.route(x)
    direct, in_order = (
        dispatch.run(x, expert_ids, moe.switch_mlp.run)
        for dispatch in (Dispatch(), SortedDispatch())
    )
    assert mx.abs(in_order - direct).max().item() < 1e-6


def test_the_router_takes_the_softmax_over_the_chosen_experts_only() -> None:
    moe = tiny_model(tiny_config(**MOE)).layers[0].block_sparse_moe
    x = mx.random.normal((1, 5, 24), key=mx.random.key(0))
    chosen, shares = (np.array(one) for one in moe.route(x))
    scores = np.array(moe.gate(x))
    for t in range(5):
        assert set(chosen[0, t]) == set(np.argsort(scores[0, t])[-2:])
        assert shares[0, t] == pytest.approx(reference.softmax(scores[0, t, chosen[0, t]]), 1e-5)


def test_yarn_frequencies_are_the_published_ones() -> None:
    """Figures of Devstral 2: inverse frequencies 0, 16, 32 and 63, computed from its config."""
    config = tiny_config(
        head_dim=128,
        rope_theta=1e6,
        yarn={"factor": 64, "original_max_position_embeddings": 4096, "beta": 4, "alpha": 1},
    )
    assert config.yarn
    inverse = 1 / np.array(yarn_periods(128, 1e6, config.yarn))
    expected = [1.0, 0.03162277660168379, 1.5625e-05, 1.9389652511745618e-08]
    assert inverse[[0, 16, 32, 63]] == pytest.approx(expected, rel=1e-6)
    assert config.yarn.attention_factor == pytest.approx(1.4158883083)


@pytest.mark.parametrize("position", [0, 7, 1000, 30000])
def test_rope_turns_by_the_position(position: int) -> None:
    config = tiny_config()
    x = np.random.default_rng(0).normal(size=(1, 3, 1, 8))
    rotation = RotaryEmbedding(config)(mx.array(position), n_new=1, dtype=mx.float32)
    ours = rotation(mx.array(x.astype(np.float32)))
    expected = reference.rotate(config, x[0, :, 0], position)
    # Angles are rounded to float32, so the error grows with the position.
    assert np.abs(np.array(ours)[0, :, 0] - expected).max() < 1e-5 + 4e-7 * position


@pytest.mark.parametrize("unknown", [61, -1, 1 << 30])
def test_an_unknown_token_id_spoils_its_own_text_and_reads_no_other_memory(unknown: int) -> None:
    model = tiny_model(tiny_config(**MOE))
    out = np.array(model(mx.array([[1, 2, 3, unknown], [1, 2, 3, 4]])))
    assert np.isnan(out[0, 3]).all()
    assert np.isfinite(out[1]).all()


def test_nan_weights_give_nan_logits_and_no_crash() -> None:
    model = tiny_model(tiny_config(**MOE, sliding_window=4))
    model.layers[1].block_sparse_moe.gate.weight *= float("nan")
    assert np.isnan(np.array(model(mx.array([random_ids(30)])))).all()


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_half_precision_runs_near_the_float32_result(dtype: mx.Dtype) -> None:
    model: Model = tiny_model(tiny_config(**MOE, sliding_window=6))
    ids = mx.array([random_ids(20)])
    exact = model(ids)
    model.set_dtype(dtype)
    with use_backend("cpu"):  # MLX's CPU device gathers the experts' matrices in float32 alone
        near = model(ids, model.make_cache())
    assert near.dtype == dtype
    assert mx.abs(near - exact).mean().item() < 0.1
