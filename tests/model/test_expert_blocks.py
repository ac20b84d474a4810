"""Experts given their tokens in blocks: the same results, whoever chooses whom."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.model import experts
from mlx_mistral.model.expert_blocks import FEWEST_ROWS, MOST_ROWS, arrange, block_rows
from mlx_mistral.model.experts import Experts
from tests.tiny import FAMILIES, tiny_config, tiny_model


@settings(max_examples=40, deadline=None)
@given(
    chosen=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    rows=st.sampled_from([1, 2, 4, 8]),
)
def test_every_token_stands_in_a_row_of_its_expert_and_no_two_in_one(
    chosen: list[int], rows: int
) -> None:
    blocks = arrange(mx.array(chosen), 5, rows)
    places = np.array(blocks.places)
    assert len(set(places)) == len(chosen)
    assert np.array(blocks.experts).max() < 5
    assert list(np.array(blocks.experts)[places // rows]) == chosen
    assert list(np.array(blocks.tokens).flatten()[places]) == list(range(len(chosen)))


@pytest.mark.parametrize(
    "pick", [lambda n: n * [2], lambda n: [i * i % 4 for i in range(n)], lambda n: n // 2 * [0, 3]]
)
def test_blocks_give_what_each_expert_gives_alone(pick: Callable[[int], list[int]]) -> None:
    block = Experts(4, 16, 24)
    n, top_k = 160, 2
    x = mx.random.normal((2, n // 2, 16), key=mx.random.key(1))
    chosen = mx.array(pick(n * top_k)).reshape(2, n // 2, top_k)
    assert block_rows(n * top_k, 4) >= FEWEST_ROWS
    got, a, ids = np.array(block(x, chosen)), np.array(x, np.float64), np.array(chosen)
    matrices = (block.gate_proj, block.up_proj, block.down_proj)
    gate, up, down = (np.array(one.weight, np.float64) for one in matrices)
    for row, token, k in np.ndindex(*ids.shape):
        e, one = ids[row, token, k], a[row, token]
        g = gate[e] @ one
        wanted = down[e] @ (g / (1 + np.exp(-g)) * (up[e] @ one))
        np.testing.assert_allclose(got[row, token, k], wanted, atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 1), (4,), (2, 5)])
def test_all_tokens_given_to_each_expert_give_what_their_own_give(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    block, n_given = Experts(4, 16, 24), []
    x = mx.random.normal((*shape, 16), key=mx.random.key(5))
    chosen = mx.random.randint(0, 4, (*shape, 2), key=mx.random.key(6))
    own = block._all_to_each
    monkeypatch.setattr(block, "_all_to_each", lambda *a: n_given.append(1) or own(*a))
    monkeypatch.setattr(experts, "multiplies_fast", lambda: False)
    expected = block(x, chosen)
    assert not n_given
    monkeypatch.setattr(experts, "multiplies_fast", lambda: True)
    np.testing.assert_allclose(np.array(block(x, chosen)), np.array(expected), atol=1e-5)
    assert n_given
    one = block(x[:1, ...], chosen[:1, ...])
    np.testing.assert_allclose(np.array(one), np.array(expected[:1]), atol=1e-5)


def test_an_expert_that_nobody_chose_may_hold_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experts, "multiplies_fast", lambda: True)
    block = Experts(4, 16, 24)
    block.up_proj.weight[3] = float("nan")
    x = mx.random.normal((8, 16), key=mx.random.key(7))
    out = block(x, mx.random.randint(0, 3, (8, 2), key=mx.random.key(8)))
    assert not bool(mx.isnan(out).any())


def test_few_tokens_make_no_blocks_and_many_large_ones() -> None:
    assert block_rows(8 * 8 * FEWEST_ROWS - 1, 8) == 0
    assert block_rows(8 * 8 * FEWEST_ROWS, 8) == FEWEST_ROWS
    assert block_rows(1 << 20, 8) == MOST_ROWS


def test_a_token_that_is_no_number_spoils_no_other() -> None:
    """Rows that nobody wants are filled with the first token's."""
    block = Experts(4, 16, 24)
    x = mx.random.normal((1, 160, 16), key=mx.random.key(2))
    x[:, 0] = float("nan")
    chosen = mx.random.randint(0, 4, (1, 160, 2), key=mx.random.key(3))
    out = block(x, chosen)
    assert bool(mx.isnan(out[:, 0]).all())
    assert not bool(mx.isnan(out[:, 1:]).any())


def test_a_prompt_read_in_blocks_continues_as_one_read_row_by_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    ids = mx.random.randint(0, model.config.vocab_size, (1, 300), key=mx.random.key(4))
    in_blocks = model(ids)
    monkeypatch.setattr(experts, "block_rows", lambda n, num_experts: 0)
    row_by_row = model(ids)
    assert bool(mx.allclose(in_blocks, row_by_row, atol=1e-4))
