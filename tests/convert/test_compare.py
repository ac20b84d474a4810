"""Source and result side by side, against models that are loaded whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlx_mistral import load_model
from mlx_mistral.convert import compare, convert_checkpoint
from mlx_mistral.errors import ConversionError, EvaluationError
from mlx_mistral.evaluation import evaluate
from tests.checkpoint.models import VOCAB, hf_weights, write_hf

IDS = [(7 * n * n + 3 * n) % VOCAB for n in range(600)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("compare")
    source = write_hf(root / "source", hf_weights())
    convert_checkpoint(source, root / "result", bits=4, group_size=32)
    return source, root / "result"


def test_it_finds_what_an_evaluation_of_loaded_models_finds(folders: tuple[Path, Path]) -> None:
    source, result = (load_model(folder, dtype="float32") for folder in folders)
    found = compare(*folders, IDS, bos_id=1, dtype="float32")
    # The models were made for 256 tokens: blocks of so many, without overlap.
    expected = evaluate(result, IDS, bos_id=1, context=256, stride=256, reference=source)
    assert found.result.tokens == found.source.tokens == len(IDS)
    assert found.result.perplexity == pytest.approx(expected.perplexity, rel=1e-4)
    assert found.result.kl == pytest.approx(expected.kl, rel=1e-3)
    assert found.result.top1_agreement == expected.top1_agreement
    alone = evaluate(source, IDS, bos_id=1, context=256, stride=256)
    assert found.source.perplexity == pytest.approx(alone.perplexity, rel=1e-4)
    assert "256" in found.method


def test_a_model_is_no_distance_from_itself(folders: tuple[Path, Path]) -> None:
    found = compare(folders[0], folders[0], IDS[:100], bos_id=1)
    assert found.result.kl == pytest.approx(0, abs=1e-9)
    assert found.result.top1_agreement == 1
    assert found.to_json()["perplexity"] == found.to_json()["perplexity_before"]


def test_all_layers_of_both_are_heard_of(folders: tuple[Path, Path]) -> None:
    heard: list[tuple[int, int]] = []
    compare(*folders, IDS[:10], bos_id=1, progress=lambda n, of: heard.append((n, of)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_text_without_tokens_is_one_line(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConversionError, match="no token"):
        compare(*folders, [], bos_id=1)


def test_tokens_of_another_tokenizer_are_one_line(folders: tuple[Path, Path]) -> None:
    with pytest.raises(EvaluationError):
        compare(*folders, [5, VOCAB], bos_id=1)
