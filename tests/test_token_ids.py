"""Token ids of every type that a caller may have, through every function that takes them."""

from __future__ import annotations

import array
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from tiny import LetterTokenizer, tiny_config, tiny_model

from mlx_mistral.batch_completion import batch_generate
from mlx_mistral.completion import generate, stream_generate
from mlx_mistral.errors import TokenizerError
from mlx_mistral.evaluation.evaluate import evaluate
from mlx_mistral.generation import BatchGenerator, Sampling, generate_ids
from mlx_mistral.generation.speculate import generate_with_drafts
from mlx_mistral.model import Model
from mlx_mistral.token_ids import plain_ids

IDS = [3, 1, 4, 1, 5]
INTEGER_DTYPES = (
    mx.int8, mx.int16, mx.int32, mx.int64, mx.uint8, mx.uint16, mx.uint32, mx.uint64,
)  # fmt: skip
SEQUENCES: dict[str, Any] = {
    "list": IDS,
    "tuple": tuple(IDS),
    "NumPy integers": [np.int64(n) for n in IDS],
    "NumPy integers of 8 bits": [np.uint8(n) for n in IDS],
    "NumPy scalars as arrays": [np.array(n) for n in IDS],
    "MLX scalars": [mx.array(n) for n in IDS],
    "mixed": (3, np.int32(1), mx.array(4), np.uint16(1), np.array(5)),
    "array.array": array.array("i", IDS),
    **{f"NumPy {kind}": np.array(IDS, kind) for kind in "bhilqBHILQ"},
    **{f"MLX {dtype}": mx.array(IDS, dtype) for dtype in INTEGER_DTYPES},
    "NumPy view with a step": np.array([3, 0, 1, 0, 4, 0, 1, 0, 5])[::2],
}
REFUSED: dict[str, tuple[Any, str]] = {
    "a float": ([3, 1.0], r"has 1\.0 of type float at position 1"),
    "a NumPy float": ([np.float32(1)], "position 0"),
    "a boolean": ([3, 1, True], "has True of type bool at position 2"),
    "a NumPy boolean": ([np.bool_(True)], "position 0"),
    "an MLX boolean": ([mx.array(True)], "position 0"),
    "an MLX float": ([mx.array(2.0)], "position 0"),
    "text in a list": ([3, "1"], "has '1' of type str at position 1"),
    "long text": (["x" * 500], r"'x{39} of type str"),
    "a nested list": ([[3, 1]], "of type list at position 0"),
    "None": ([None], "NoneType"),
    "an array of floats": (np.array([3.0, 1.0]), "of type float"),
    "an MLX array of floats": (mx.array([3.0]), "of type float"),
    "an array of booleans": (np.array([True]), "of type bool"),
    "an MLX array of booleans": (mx.array([True]), "of type bool"),
    "two dimensions": (np.array([IDS]), "an array of 2 dimensions"),
    "two MLX dimensions": (mx.array([IDS]), "an array of 2 dimensions"),
    "an array of no dimension": (mx.array(3), "an array of 0 dimensions"),
    "an integer": (3, "is of type int"),
    "bytes": (b"abc", "is of type bytes"),
    "a set": ({3, 1}, "is of type set"),
    "a dict": ({3: 1}, "is of type dict"),
}


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model(tiny_config(vocab_size=266))


@pytest.mark.parametrize("name", SEQUENCES)
def test_every_sequence_of_integers_becomes_the_same_list(name: str) -> None:
    ids = plain_ids(SEQUENCES[name])
    assert ids == IDS
    assert {type(token_id) for token_id in ids} == {int}


def test_a_range_a_generator_and_nothing_are_sequences_too() -> None:
    assert plain_ids(range(3)) == [0, 1, 2]
    assert plain_ids(n for n in IDS) == IDS
    assert plain_ids([]) == plain_ids(()) == plain_ids(np.array([], np.int32)) == []


def test_the_caller_keeps_its_own_list() -> None:
    given = list(IDS)
    plain_ids(given).append(9)
    assert given == IDS


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_is_one_line_that_names_it_and_the_remedy(name: str) -> None:
    given, problem = REFUSED[name]
    with pytest.raises(TokenizerError, match=problem) as caught:
        plain_ids(given, "the prompt")
    message = str(caught.value)
    assert message.startswith("the prompt ")
    assert message.endswith("a list of integers or as a 1-D array of integers")
    assert message.isprintable()
    assert len(message) < 200


def through_stream_generate(model: Model, prompt: Any) -> list[int]:
    return [r.token for r in stream_generate(model, None, prompt, max_tokens=3, temp=0.0)]


def through_drafts(model: Model, prompt: Any) -> list[int]:
    replies = stream_generate(model, None, prompt, max_tokens=3, temp=0.0, speculate=True)
    return [reply.token for reply in replies]


def through_batch_generate(model: Model, prompt: Any) -> list[int]:
    return batch_generate(model, None, [prompt], 3, temp=0.0).token_ids[0]


def through_the_batch(model: Model, prompt: Any) -> list[int]:
    batch = BatchGenerator(model)
    batch.insert(prompt, max_tokens=3, sampling=Sampling(temp=0.0))
    tokens: list[int] = []
    while batch:
        tokens += [new.token for new in batch.next()]
    return tokens


def through_generate_ids(model: Model, prompt: Any) -> list[int]:
    options: dict[str, Any] = {"sampling": Sampling(temp=0.0), "max_tokens": 3}
    return [step.token for step in generate_ids(model, prompt, cache=model.make_cache(), **options)]


FUNCTIONS = (
    through_stream_generate, through_drafts, through_batch_generate, through_the_batch,
    through_generate_ids,
)  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_takes_every_type_and_gives_the_same_reply(
    function: Any, model: Model
) -> None:
    expected = function(model, IDS)
    assert len(expected) == 3
    for name in ("NumPy integers", "MLX scalars", "mixed", "array.array", "NumPy l", "tuple"):
        assert function(model, SEQUENCES[name]) == expected, name
    for dtype in (mx.uint8, mx.int64):
        assert function(model, mx.array(IDS, dtype)) == expected


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_refuses_what_are_no_ids(function: Any, model: Model) -> None:
    for given, problem in REFUSED.values():
        with pytest.raises(TokenizerError, match=problem):
            function(model, given)


def test_generate_takes_ids_beside_a_tokenizer(model: Model) -> None:
    tokenizer: Any = LetterTokenizer()
    prompts = (IDS, np.array(IDS), [np.int32(n) for n in IDS], mx.array(IDS))
    replies = {generate(model, tokenizer, prompt, max_tokens=3, temp=0.0) for prompt in prompts}
    assert len(replies) == 1


def test_the_cached_text_to_draft_from_takes_every_type_too(model: Model) -> None:
    def reply(before: Any) -> list[int]:
        cache = model.make_cache()
        model(mx.array([IDS]), cache=cache)
        steps = generate_with_drafts(
            model, [9, 2], cache=cache, sampling=Sampling(temp=0.0), max_tokens=4, before=before
        )
        return [step.token for step in steps]

    assert reply(np.array(IDS)) == reply(tuple(mx.array(n) for n in IDS)) == reply(IDS)
    with pytest.raises(TokenizerError, match=r"the cached text has 1\.5"):
        reply([1.5])


def test_a_text_to_evaluate_takes_every_type_too(model: Model) -> None:
    expected = evaluate(model, IDS, bos_id=1, context=4)
    assert evaluate(model, np.array(IDS), bos_id=1, context=4) == expected
    assert evaluate(model, [mx.array(n) for n in IDS], bos_id=1, context=4) == expected
