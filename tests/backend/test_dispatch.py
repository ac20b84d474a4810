"""Dispatch of tokens to experts: every grouping gives what each expert gives alone."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_mistral.backend.cpu import blas
from mlx_mistral.backend.cpu.dispatch import (
    MAX_TILE_ROWS,
    MIN_TILE_ROWS,
    DenseDispatch,
    TiledDispatch,
    pack_tokens,
    tile_rows,
)
from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.dispatch import MIN_SORTED_ROWS, SORT_FROM, Dispatch, SortedDispatch
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import use_backend
from mlx_mistral.model.moe import Experts
from tests.tiny import FAMILIES, tiny_config, tiny_model

E, DIM, TOP_K = 4, 16, 2
DISPATCHES: dict[str, Callable[[], Dispatch]] = {
    "direct": Dispatch,
    "sorted": SortedDispatch,
    "tiles of 4": lambda: TiledDispatch(E, 4),
    "dense": lambda: DenseDispatch(E),
}
ROUTINGS: dict[str, Callable[[int], list[int]]] = {
    "one expert": lambda n: n * [2],
    "uneven": lambda n: [i * i % E for i in range(n)],
    "two experts": lambda n: (n // 2 + 1) * [0, 3],
}


def expected_outputs(block: Experts, x: mx.array, expert_ids: mx.array) -> np.ndarray:
    """Each routed row through its expert, in float64. Shapes: -> (B, T, k, dim)."""
    matrices = (block.gate_proj, block.up_proj, block.down_proj)
    gate, up, down = (np.array(stack.weight, np.float64) for stack in matrices)
    rows, ids = np.array(x, np.float64), np.array(expert_ids)
    out = np.zeros((*ids.shape, rows.shape[-1]))
    for b, t, k in np.ndindex(*ids.shape):
        e, row = ids[b, t, k], rows[b, t]
        g = gate[e] @ row
        out[b, t, k] = down[e] @ (g / (1 + np.exp(-g)) * (up[e] @ row))
    return out


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("shape", [(1, 1), (4, 1), (1, 5), (2, 80)])
def test_every_grouping_gives_what_each_expert_gives_alone(
    dispatch: str, routing: str, shape: tuple[int, int]
) -> None:
    block, n = Experts(E, DIM, 24), shape[0] * shape[1] * TOP_K
    x = mx.random.normal((*shape, DIM), key=mx.random.key(1))
    expert_ids = mx.array(ROUTINGS[routing](n)[:n]).reshape(*shape, TOP_K)
    out = DISPATCHES[dispatch]().run(x, expert_ids, block.run)
    np.testing.assert_allclose(np.array(out), expected_outputs(block, x, expert_ids), atol=1e-5)


@pytest.mark.parametrize("dispatch", DISPATCHES)
@pytest.mark.parametrize("n_tokens", [1, 3, 40])
def test_an_expert_alone_gives_its_rows_of_the_whole(dispatch: str, n_tokens: int) -> None:
    """Experts that are read from disk run one by one, in products like those of the stack."""
    block, chosen = Experts(E, DIM, 24), DISPATCHES[dispatch]()
    x = mx.random.normal((1, n_tokens, DIM), key=mx.random.key(2))
    expert_ids = mx.random.randint(0, E, (1, n_tokens, TOP_K), key=mx.random.key(3))
    whole = np.array(chosen.run(x, expert_ids, block.run)).reshape(-1, DIM)
    routed = np.array(expert_ids).reshape(-1)
    for expert in set(routed.tolist()):
        alone = Experts(1, DIM, 24)
        for name in ("gate_proj", "up_proj", "down_proj"):
            alone[name].weight = block[name].weight[expert : expert + 1]
        places = np.flatnonzero(routed == expert)
        out = chosen.run_expert(x[0], places // TOP_K, alone.run)
        np.testing.assert_array_equal(np.array(out), whole[places])


def test_sorted_products_of_one_expert_are_never_so_small_that_metal_takes_another_kernel() -> None:
    shapes: list[tuple[int, ...]] = []

    def expert(rows: mx.array, expert_ids: mx.array, is_sorted: bool, _: object = None) -> mx.array:
        shapes.append(rows.shape)
        assert is_sorted
        assert expert_ids.shape == rows.shape[:1]
        return rows

    x = mx.random.normal((40, DIM), key=mx.random.key(4))
    for n in (1, MIN_SORTED_ROWS - 1, MIN_SORTED_ROWS, 30):
        rows = np.arange(n)
        assert mx.array_equal(SortedDispatch().run_expert(x, rows, expert), x[:n])
    assert [shape[0] for shape in shapes] == [16, 16, 16, 30]


@settings(max_examples=40, deadline=None)
@given(
    expert_ids=st.lists(st.integers(0, 4), min_size=1, max_size=40),
    rows=st.sampled_from([1, 2, 4, 8]),
)
def test_every_routed_row_stands_in_a_tile_of_its_expert_and_no_two_in_one_row(
    expert_ids: list[int], rows: int
) -> None:
    tiles = pack_tokens(mx.array(expert_ids), 5, rows)
    targets = np.array(tiles.targets)
    assert len(set(targets)) == len(expert_ids)
    assert np.array(tiles.experts).max() < 5
    assert list(np.array(tiles.experts)[targets // rows]) == expert_ids
    assert list(np.array(tiles.sources).flatten()[targets]) == list(range(len(expert_ids)))


def test_dense_results_that_nobody_chose_may_be_anything() -> None:
    block = Experts(E, DIM, 24)
    block.up_proj.weight[3] = float("nan")
    x = mx.random.normal((8, 1, DIM), key=mx.random.key(7))
    expert_ids = mx.random.randint(0, 3, (8, 1, TOP_K), key=mx.random.key(8))
    out = DenseDispatch(E).run(x, expert_ids, block.run)
    assert not bool(mx.isnan(out).any())


def test_a_token_that_is_nan_spoils_no_other() -> None:
    """Padding of tiles repeats the first token."""
    block = Experts(E, DIM, 24)
    x = mx.random.normal((1, 160, DIM), key=mx.random.key(2))
    x[:, 0] = float("nan")
    expert_ids = mx.random.randint(0, E, (1, 160, TOP_K), key=mx.random.key(3))
    for make in DISPATCHES.values():
        out = make().run(x, expert_ids, block.run)
        assert bool(mx.isnan(out[:, 0]).all())
        assert not bool(mx.isnan(out[:, 1:]).any())


def test_few_rows_make_no_tiles_and_many_large_ones() -> None:
    assert tile_rows(8 * 8 * MIN_TILE_ROWS - 1, 8) == 0
    assert tile_rows(8 * 8 * MIN_TILE_ROWS, 8) == MIN_TILE_ROWS
    assert tile_rows(1 << 20, 8) == MAX_TILE_ROWS


@pytest.mark.parametrize(
    ("n_routed", "is_quantized", "has_blas", "plain", "cpu"),
    [
        (2, False, True, Dispatch, Dispatch),
        (16, False, True, Dispatch, DenseDispatch),
        (16, False, False, Dispatch, Dispatch),
        (8 * SORT_FROM, False, False, SortedDispatch, SortedDispatch),
        (8 * SORT_FROM, True, True, SortedDispatch, SortedDispatch),
        (256, False, True, SortedDispatch, TiledDispatch),
        (256, True, True, SortedDispatch, SortedDispatch),
    ],
)
def test_the_number_of_rows_and_the_form_of_experts_decide(
    n_routed: int,
    is_quantized: bool,
    has_blas: bool,
    plain: type,
    cpu: type,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(blas, "is_preloaded", lambda: has_blas)
    for backend, kind in ((Backend(), plain), (CPUBackend(), cpu)):
        assert type(backend.dispatch(n_routed, 8, is_quantized=is_quantized)) is kind


@pytest.mark.parametrize("backend", ["mlx", "cpu"])
def test_a_prompt_in_one_pass_gives_the_logits_of_one_token_at_a_time(backend: str) -> None:
    with use_backend(backend):
        model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
        ids = mx.random.randint(0, model.config.vocab_size, (1, 300), key=mx.random.key(4))
        together, cache = model(ids), model.make_cache()
        singly = mx.concatenate([model(ids[:, i : i + 1], cache) for i in range(300)], axis=1)
        assert bool(mx.allclose(together, singly, atol=1e-4))


def test_a_router_reports_its_choice_with_a_token_axis() -> None:
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    shapes: list[tuple[int, ...]] = []
    model.layers[0].block_sparse_moe.on_route = lambda ids: shapes.append(ids.shape)
    model(mx.array([[3], [5]]))
    model(mx.array([[3, 4]]))
    assert shapes == [(2, 1, 2), (1, 2, 2)]


def test_the_experts_of_each_sequence_get_its_own_row() -> None:
    moe = tiny_model(tiny_config(**FAMILIES["mixtral"])).layers[0].block_sparse_moe
    x = mx.random.normal((3, 1, 24), key=mx.random.key(3))
    alone = mx.concatenate([moe(x[row : row + 1]) for row in range(3)])
    assert mx.abs(moe(x) - alone).max().item() < 1e-6
