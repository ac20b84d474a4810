"""Where MLX replays nothing, or is told not to, the step built anew makes the same text."""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.generation import Sampling, generate_ids, tracing
from mlx_mistral.generation.tracing import can_trace, unfused_on_cpu
from mlx_mistral.model import fuse


def written() -> list[int]:
    model = tiny_model(tiny_config(**FAMILIES["mixtral"]))
    fuse(model)
    sampling = Sampling(temp=0.8, seed=3)
    steps = generate_ids(
        model, random_ids(5), cache=model.make_cache(), sampling=sampling, max_tokens=8
    )
    return [one.token for one in steps]


def is_compiled() -> bool:
    traces: list[int] = []

    def traced(x: mx.array) -> mx.array:
        traces.append(1)
        return x + 1

    compiled = mx.compile(traced)
    compiled(mx.array(1))
    compiled(mx.array(2))
    return len(traces) == 1


@pytest.fixture
def disabled() -> Iterator[None]:
    mx.disable_compile()
    yield
    mx.enable_compile()


@pytest.mark.parametrize("lacking", ["_set_mode", "_has_compiler"])
def test_without_a_switch_or_a_compiler_the_text_is_the_same(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = written()
    monkeypatch.setattr(tracing, lacking, lambda: None)
    assert not can_trace()
    with unfused_on_cpu():
        pass
    assert written() == expected


def test_a_caller_who_disables_compiling_finds_it_so_afterwards(disabled: None) -> None:
    assert not can_trace()
    text = written()
    with unfused_on_cpu():
        assert not is_compiled()
    assert not is_compiled()
    mx.enable_compile()
    assert text == written()


@pytest.mark.skipif(not can_trace(), reason="MLX replays nothing on this machine")
def test_the_mode_is_restored_when_a_trace_fails() -> None:
    with pytest.raises(ZeroDivisionError), unfused_on_cpu():
        raise ZeroDivisionError
    assert is_compiled()
