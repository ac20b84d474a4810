"""When steps may overlap on Metal, against a simulation of how MLX encodes them."""

from __future__ import annotations

import mlx.core as mx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.pipelining import METAL, MI, PipelineLimits, metal_limits
from mlx_mistral.backend.select import use_backend
from mlx_mistral.generation import BatchGenerator, Sampling, generate_ids
from mlx_mistral.generation.speculate import generate_with_drafts
from mlx_mistral.generation.step import _operations
from mlx_mistral.model import fuse

ALWAYS = PipelineLimits(max_active_tasks=0, max_buffer_elements=0, max_copied_bytes=1 << 60)
NEVER = PipelineLimits(max_active_tasks=10, max_buffer_elements=1 << 60, max_copied_bytes=0)


class Encoder:
    """MLX's encoding of operations for a GPU that computes only what is waited for.

    Example:
        encoder = Encoder(METAL)
        encoder.encode("weights", 5 * MI)
    """

    def __init__(self, limits: PipelineLimits) -> None:
        self._limits = limits
        self._outstanding: list[tuple[bool, set[str]]] = []
        self._current: dict[str, int] = {}

    def encode(self, operand: str, elements: int) -> None:
        self._current[operand] = elements
        if sum(self._current.values()) > self._limits.max_buffer_elements:
            self._commit(is_counted=True)
        while sum(counted for counted, _ in self._outstanding) > self._limits.max_active_tasks:
            counted = False
            while not counted:
                counted, _ = self._outstanding.pop(0)

    def end_step(self) -> None:
        self._commit(is_counted=False)

    def holds(self, operand: str) -> bool:
        return operand in self._current or any(
            operand in operands for _, operands in self._outstanding
        )

    def _commit(self, *, is_counted: bool) -> None:
        self._outstanding.append((is_counted, set(self._current)))
        self._current = {}


def copied_caches(layers: list[list[int]], cache: int, limits: PipelineLimits) -> int:
    """Caches that the second of two overlapping steps copies."""
    encoder, copies = Encoder(limits), 0
    for step in range(2):
        for number, (projections, *others) in enumerate(layers):
            encoder.encode(f"projections {number}", projections)
            copies += step == 1 and encoder.holds(f"cache {number}")
            encoder.encode(f"cache {number}", cache)
            for place, elements in enumerate(others):
                encoder.encode(f"weights {number} {place}", elements)
        encoder.end_step()
    return copies


def operations(layers: list[list[int]], cache: int) -> list[int]:
    return [size for first, *others in layers for size in (first, cache, *others)]


@settings(max_examples=200, deadline=None)
@given(
    layers=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=30),
    cache=st.integers(0, 60),
    tasks=st.integers(0, 10),
    limit=st.integers(1, 50),
)
def test_steps_that_may_overlap_copy_no_cache(
    layers: list[list[int]], cache: int, tasks: int, limit: int
) -> None:
    limits = PipelineLimits(max_active_tasks=tasks, max_buffer_elements=limit, max_copied_bytes=0)
    if limits.can_overlap(operations(layers, cache), cache_bytes=1):
        assert copied_caches(layers, cache, limits) == 0


def layer_of(dim: int, hidden: int, heads: int, kv_heads: int, per_weight: float) -> list[int]:
    """Elements of q/k/v, o, gate and up, down; of heads of 128."""
    matrices = ((heads + 2 * kv_heads) * 128 * dim, heads * 128 * dim, 2 * hidden * dim)
    return [round(per_weight * weights) for weights in (*matrices, hidden * dim)]


FOUR_BITS = 1 / 8 + 2 / 64
"""Elements per weight: packed words, scales and biases."""
MODELS = {
    "Mistral 7B, 4 bits": 32 * [layer_of(4096, 14336, 32, 8, FOUR_BITS)],
    "Ministral 8B, 4 bits": 36 * [layer_of(4096, 12288, 32, 8, FOUR_BITS)],
    "Ministral 3 3B, 4 bits": 26 * [layer_of(3072, 9216, 32, 8, FOUR_BITS)],
    "Ministral 3 3B, bfloat16": 26 * [layer_of(3072, 9216, 32, 8, 1)],
    "25 M weights": 6 * [layer_of(512, 1536, 8, 2, 1)],
}


@pytest.mark.parametrize(
    ("model", "n_tokens", "overlaps"),
    [
        ("Mistral 7B, 4 bits", 256, True),
        ("Mistral 7B, 4 bits", 32768, True),
        ("Ministral 8B, 4 bits", 256, True),
        ("Ministral 3 3B, 4 bits", 256, False),
        ("Ministral 3 3B, 4 bits", 32768, True),
        ("Ministral 3 3B, bfloat16", 256, True),
        ("25 M weights", 4096, False),
    ],
)
def test_large_models_overlap_and_small_ones_wait(
    model: str, n_tokens: int, overlaps: bool
) -> None:
    layers, cache = MODELS[model], 2 * 1024 * n_tokens
    cache_bytes = len(layers) * 2 * cache
    assert METAL.can_overlap(operations(layers, cache), cache_bytes=cache_bytes) is overlaps
    assert (copied_caches(layers, cache, METAL) == 0) is overlaps


def test_few_layers_of_large_caches_wait() -> None:
    layers, cache = MODELS["Mistral 7B, 4 bits"][:4], 2 * 1024 * 200_000
    assert copied_caches(layers, cache, METAL) == 4
    assert not METAL.can_overlap(operations(layers, cache), cache_bytes=1 << 30)


def test_small_caches_may_be_copied() -> None:
    assert METAL.can_overlap([], cache_bytes=4 * MI)
    assert not METAL.can_overlap([], cache_bytes=4 * MI + 1)


@pytest.mark.parametrize(
    ("stated", "mega"), [(None, 50), ("500", 500), ("", 50), ("many", 50), ("9" * 5000, 50)]
)
def test_a_limit_that_mlx_reads_from_the_environment_counts(stated: str | None, mega: int) -> None:
    environment = {} if stated is None else {"MLX_MAX_MB_PER_BUFFER": stated}
    assert metal_limits(environment).max_buffer_elements == (mega + 1) * MI - 1


def test_the_cpu_device_always_overlaps_and_plain_operations_follow_metal() -> None:
    assert CPUBackend().pipelining is None
    assert Backend().pipelining is METAL


def test_products_of_one_input_are_one_operation() -> None:
    dense, mixture = (tiny_model(tiny_config(**FAMILIES[f])) for f in ("mistral", "mixtral"))
    dim, hidden, heads, kv = 24, 32, 32, 16
    attention = [dim * (heads + 2 * kv), heads * dim]
    feed_forward = [2 * hidden * dim, hidden * dim]
    assert _operations(dense.layers[0])[0] == attention[0]
    assert sorted(_operations(dense.layers[0])) == sorted([*attention, *feed_forward, dim, dim])
    experts = [8 * dim, 8 * hidden * dim, 8 * hidden * dim, 8 * hidden * dim]
    assert sorted(_operations(mixture.layers[0])) == sorted([*attention, *experts, dim, dim])


class StandIn(Backend):
    def __init__(self, limits: PipelineLimits) -> None:
        self._limits = limits

    @property
    def pipelining(self) -> PipelineLimits:
        return self._limits


@pytest.mark.parametrize("family", ["mistral-window", "mixtral", "ministral"])
def test_steps_that_overlap_or_wait_give_the_same_tokens(family: str) -> None:
    model, prompt = tiny_model(tiny_config(**FAMILIES[family])), [4, 5, 6, 7] * 4
    fuse(model)
    replies = []
    for limits in (ALWAYS, NEVER):
        with use_backend(StandIn(limits)):
            reply = [
                [step.token for step in generate(model, prompt, cache=model.make_cache(),
                                                 sampling=Sampling(), max_tokens=20)]
                for generate in (generate_ids, generate_with_drafts)
            ]  # fmt: skip
            batch = BatchGenerator(model)
            for n in (5, 9):
                batch.insert(random_ids(n, seed=n), max_tokens=8)
            while batch:
                reply.append([(new.id, new.token) for new in batch.next()])
        replies.append(reply)
    assert replies[0] == replies[1]
    assert replies[0][0] == replies[0][1]


def test_a_decoding_step_computes_no_list_of_rows_for_experts() -> None:
    """MLX launches a kernel for each list that a gathering product is not given."""
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    given: list[bool] = []

    class Recorder(Backend):
        def expert_matmul(self, *args: mx.array, **named: object) -> mx.array:
            given.append(named["row_ids"] is not None)
            return super().expert_matmul(*args, **named)  # type: ignore[arg-type]

    cache = model.make_cache()
    with use_backend(Recorder()):
        model(mx.array([random_ids(3), random_ids(3)]), cache)
        assert not any(given)
        given.clear()
        model(mx.array([[1], [2]]), cache)
    assert given == [True] * 3 * model.config.n_layers
