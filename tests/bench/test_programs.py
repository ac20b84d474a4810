"""This program, mlx-lm and another build: one model, one text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_mistral
from mlx_mistral import demo
from mlx_mistral.bench.cases import Case
from mlx_mistral.bench.history import drawn_pair, load_drawn
from mlx_mistral.bench.ours import Ours, check_option
from mlx_mistral.bench.peer import MlxLm
from mlx_mistral.bench.program import some_ids
from mlx_mistral.bench.remote import Remote, is_build
from mlx_mistral.bench.results import compare
from mlx_mistral.bench.run import run_cases
from mlx_mistral.cache import RotatingCache
from mlx_mistral.checkpoint import load_model
from mlx_mistral.errors import CheckpointError, MlxMistralError
from tests.checkpoint.models import VOCAB, hf_weights, write_hf

pytest.importorskip("mlx_lm", reason="mlx-lm belongs to the test extra")
CHECKOUT = Path(mlx_mistral.__file__).parents[1]


@pytest.fixture(scope="module", params=["mistral", "mixtral"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    moe = request.param == "mixtral"
    weights = {name: 3 * array for name, array in hf_weights(moe=moe).items()}
    return str(write_hf(tmp_path_factory.mktemp("bench") / request.param, weights, moe=moe))


@pytest.fixture
def ours(folder: str) -> Iterator[Ours]:
    program = Ours(folder)
    yield program
    program.close()


def greedy(folder: str, ids: list[int], n: int) -> list[int]:
    """By feeding the whole text again for every token."""
    model, text = load_model(folder), list(ids)
    for _ in range(n):
        text.append(int(mx.argmax(model(mx.array([text]))[0, -1])))
    return text[len(ids) :]


def test_a_reply_behind_text_is_the_texts_own_every_time(ours: Ours, folder: str) -> None:
    before = some_ids(30, VOCAB)
    ours.fill(before)
    expected = greedy(folder, [*before, 5], 6)
    for _ in range(3):
        assert ours.run([[5]], 5).tokens == [expected]
    ours.fill([])
    assert ours.run([[*before, 5]], 5).tokens == [expected]


def test_every_text_of_a_batch_is_written_as_alone(ours: Ours, folder: str) -> None:
    prompts = [some_ids(9, VOCAB, text=text) for text in range(3)]
    expected = [greedy(folder, prompt, 5) for prompt in prompts]
    assert ours.run(prompts, 4).tokens == expected


@pytest.mark.parametrize("drawn", [False, True])
def test_mlx_lm_writes_the_same_in_every_test(ours: Ours, folder: str, drawn: bool) -> None:
    theirs = MlxLm(folder)
    cases = [Case(prompt_tokens=12), Case(gen_tokens=6), Case(gen_tokens=6, batch=3),
             Case(gen_tokens=6, depth=40), Case(prompt_tokens=7, depth=40)]  # fmt: skip
    for mine, other in zip(*run_cases([ours, theirs], cases, trials=2, drawn=drawn), strict=True):
        assert compare(mine, other).first_difference is None, mine.case.name
        assert mine.peak_memory_bytes > 0
        assert other.peak_memory_bytes > 0
    theirs.close()


def test_a_wrong_model_is_noticed(folder: str, tmp_path: Path) -> None:
    moe = folder.endswith("mixtral")
    weights = {name: 3 * array for name, array in hf_weights(moe=moe).items()}
    weights["lm_head.weight"] = np.roll(weights["lm_head.weight"], 1, axis=0)
    wrong = write_hf(tmp_path / "wrong", weights, moe=moe)
    programs = [Ours(folder), Ours(str(wrong), name="wrong")]
    [[mine], [other]] = run_cases(programs, [Case(gen_tokens=4)], trials=1)
    assert compare(mine, other).first_difference == 0


def test_a_drawn_ring_is_the_one_that_writing_makes() -> None:
    for n in (3, 8, 13, 16, 21):
        written, drawn = RotatingCache(8), RotatingCache(8)
        written.update_and_fetch(*drawn_pair(0, n, 2, 4, mx.float32))
        load_drawn([drawn], n, 2, 4, mx.float32)
        assert drawn.offset == written.offset == n
        for mine, expected in zip(drawn.state, written.state, strict=True):
            held = min(n, 8)
            assert mx.array_equal(mine[..., :held, :], expected[..., :held, :])


def test_another_build_runs_in_a_process_of_its_own(ours: Ours, folder: str) -> None:
    assert is_build(CHECKOUT)
    other = Remote(CHECKOUT, folder)
    try:
        cases = [Case(gen_tokens=4, depth=20), Case(gen_tokens=4, batch=2)]
        both = run_cases([ours, other], cases, trials=1)
        for mine, theirs in zip(*both, strict=True):
            assert compare(mine, theirs).first_difference is None
        with pytest.raises(MlxMistralError, match="cannot do this"):
            other.run([[VOCAB + 1]], 1)
    finally:
        other.close()


def test_a_build_that_cannot_start_is_said_in_one_line(tmp_path: Path, folder: str) -> None:
    package = tmp_path / "mlx_mistral"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('it is broken')")
    with pytest.raises(MlxMistralError, match="ImportError: it is broken") as error:
        Remote(tmp_path, folder)
    assert "\n" not in str(error.value)


def test_what_mlx_lm_cannot_describe_is_refused_in_one_line() -> None:
    with pytest.raises(CheckpointError, match="mlx-lm cannot run this model") as error:
        MlxLm(str(demo.model_path()))
    assert "\n" not in str(error.value)


def test_an_option_that_replies_do_not_have_is_refused() -> None:
    check_option("context")
    with pytest.raises(MlxMistralError, match="--wings is not available"):
        check_option("wings")
