"""Every token is scored once, after as much of the text as was promised."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_config

from mlx_mistral.errors import ContextError
from mlx_mistral.evaluation.blocks import (
    blocks,
    choose_context,
    count_blocks,
    default_stride,
    describe,
)

BOS = -1


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int]:
    """A text's length, the context, the stride."""
    context = draw(st.integers(1, 12))
    return draw(st.integers(0, 60)), context, draw(st.integers(1, context))


@given(cuts())
def test_each_token_is_scored_once_and_in_order(cut: tuple[int, int, int]) -> None:
    n, context, stride = cut
    made = list(blocks(range(n), bos_id=BOS, context=context, stride=stride))
    assert [one for block in made for one in block.targets] == list(range(n))
    assert len(made) == count_blocks(n, context=context, stride=stride)


@given(cuts())
def test_a_block_is_bos_and_the_text_right_before_its_last_target(
    cut: tuple[int, int, int],
) -> None:
    n, context, stride = cut
    for block in blocks(range(n), bos_id=BOS, context=context, stride=stride):
        last = block.targets[-1]
        n_text = min(context, n) - 1
        assert block.inputs == [BOS, *range(last - n_text, last)]
        assert 1 <= len(block.targets) <= len(block.inputs) <= context


@given(cuts())
def test_a_token_sees_what_the_stride_promises(cut: tuple[int, int, int]) -> None:
    n, context, stride = cut
    for block in blocks(range(n), bos_id=BOS, context=context, stride=stride):
        n_before = len(block.inputs) - len(block.targets)
        assert n_before >= min(context - stride, block.targets[0])


@given(cuts())
def test_strides_are_even_but_for_the_ends(cut: tuple[int, int, int]) -> None:
    n, context, stride = cut
    new = [len(b.targets) for b in blocks(range(n), bos_id=BOS, context=context, stride=stride)]
    assert new[:1] == ([min(n, context)] if n else [])
    assert all(one == stride for one in new[1:-1])
    assert all(0 < one <= stride for one in new[1:])


def test_a_worked_example() -> None:
    made = list(blocks([10, 11, 12, 13, 14, 15], bos_id=1, context=4, stride=1))
    assert [(block.inputs, block.targets) for block in made] == [
        ([1, 10, 11, 12], [10, 11, 12, 13]),
        ([1, 11, 12, 13], [14]),
        ([1, 12, 13, 14], [15]),
    ]


@pytest.mark.parametrize(("context", "stride"), [(4, 5), (4, 0), (4, -1), (0, 1), (-3, 1)])
def test_a_stride_that_would_skip_tokens_is_refused(context: int, stride: int) -> None:
    with pytest.raises(ContextError, match="tokens"):
        list(blocks([1, 2, 3], bos_id=1, context=context, stride=stride))


def test_the_context_is_the_models_own_and_at_most_2048() -> None:
    small, large, unknown = tiny_config(max_seq_len=256), tiny_config(max_seq_len=9000), None
    assert choose_context(None, small) == 256
    assert choose_context(None, large) == 2048
    assert choose_context(None, large, small) == 256
    assert choose_context(9000, large) == 9000
    assert choose_context(unknown, tiny_config()) == 2048
    assert choose_context(123456, tiny_config()) == 123456


def test_a_context_beyond_any_of_the_models_is_refused() -> None:
    with pytest.raises(ContextError, match="257 tokens is more than the 256"):
        choose_context(257, tiny_config(max_seq_len=9000), tiny_config(max_seq_len=256))


@pytest.mark.parametrize("context", [1, 2, 3, 2048])
def test_the_default_stride_always_fits(context: int) -> None:
    assert 1 <= default_stride(context) <= context


def test_the_method_is_told_as_it_was_used() -> None:
    assert describe(5000, context=2048, stride=1024) == (
        "sliding: blocks of 2048 tokens, 1024 new in each"
    )
    assert describe(5000, context=512, stride=512).startswith("blocked: blocks of 512")
    assert describe(512, context=512, stride=256) == "one block of 512 tokens"
