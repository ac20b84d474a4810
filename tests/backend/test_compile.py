"""Compiled steps give the text of steps that are built each time, with fusing or without."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.backend.cpu import compile_mode
from mlx_mistral.backend.cpu.compile_mode import UnfusedFunction, can_set_mode, unfused
from mlx_mistral.backend.cpu.overrides import CPUBackend
from mlx_mistral.backend.ops import Backend
from mlx_mistral.backend.select import use_backend
from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.model import fuse

needs_mode = pytest.mark.skipif(not can_set_mode(), reason="this MLX exports no compile mode")


def sampled_ids(backend: Backend) -> list[int]:
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    fuse(model)
    sampling = Sampling(temp=0.8, seed=3)
    with use_backend(backend):
        steps = generate_ids(
            model, random_ids(5), cache=model.make_cache(), sampling=sampling, max_tokens=8
        )
        return [step.token for step in steps]


def traces_of_two_calls() -> int:
    traces: list[int] = []

    def function(x: mx.array) -> mx.array:
        traces.append(1)
        return x + 1

    compiled = mx.compile(function)
    for n in range(2):
        compiled(mx.array(n))
    return len(traces)


@pytest.fixture
def disabled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("backend", [Backend(), CPUBackend()], ids=["mlx", "cpu"])
def test_a_caller_who_disables_compiling_finds_it_so_afterwards(
    backend: Backend, disabled: None
) -> None:
    assert not backend.can_compile()
    ids = sampled_ids(backend)
    assert traces_of_two_calls() == 2
    mx.enable_compile()
    assert backend.can_compile()
    assert sampled_ids(backend) == ids


def test_without_the_mode_the_cpu_backend_builds_each_step(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampled_ids(CPUBackend())
    monkeypatch.setattr(compile_mode, "_set_mode", lambda: None)
    assert not CPUBackend().can_compile()
    with unfused():
        pass
    assert sampled_ids(CPUBackend()) == expected


@needs_mode
def test_the_mode_is_restored_when_a_trace_fails() -> None:
    def broken(x: mx.array) -> mx.array:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        UnfusedFunction(mx.compile(broken))(mx.array(1))
    assert traces_of_two_calls() == 1


@needs_mode
def test_only_the_call_that_traces_sets_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[int] = []
    monkeypatch.setattr(compile_mode, "_set_mode", lambda: modes.append)
    function = UnfusedFunction(lambda x: x + 1)
    assert [function(n) for n in range(3)] == [1, 2, 3]
    assert modes == [compile_mode.NO_FUSE, compile_mode.ENABLED]
