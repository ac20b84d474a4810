"""Models over blocks against the NumPy specification, token by token, and against mlx-lm."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import reference
from tiny import FAMILIES, random_ids, tiny_config, tiny_model, weights_of

from mlx_mistral.checkpoint import load_model
from mlx_mistral.errors import ContextError, EvaluationError
from mlx_mistral.evaluation import Scores, evaluate, scores
from mlx_mistral.model import Model

BOS = 1
CUTS = [(7, 3), (7, 7), (5, 2), (40, 20)]
room = importlib.import_module("mlx_mistral.evaluation.evaluate")


def log_probabilities(model: Model, ids: list[int], context: int, stride: int) -> np.ndarray:
    """For each token of a text those of its whole vocabulary, after its own prefix, in float64.

    Each prefix goes through the specification alone. Shapes: T ids -> (T, vocab).
    """
    weights, rows = weights_of(model), []
    for t in range(len(ids)):
        end = context
        while end <= t:
            end += stride
        start = max(0, min(end, len(ids)) - context)
        logits = reference.logits(model.config, weights, [BOS, *ids[start:t]])[-1]
        rows.append(np.log(reference.softmax(logits)))
    return np.array(rows)


def figures(found: Scores) -> list[float | None]:
    return [found.nll, found.nll_error, found.kl, found.kl_error, found.top1_agreement]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("context", "stride"), CUTS[:2])
def test_a_text_scores_what_the_specification_says_token_by_token(
    family: str, context: int, stride: int
) -> None:
    config = tiny_config(**FAMILIES[family])
    model, other = tiny_model(config, seed=0), tiny_model(config, seed=1)
    ids = random_ids(20)
    log_p = log_probabilities(model, ids, context, stride)
    log_q = log_probabilities(other, ids, context, stride)
    nll = -log_p[np.arange(20), ids]
    kl = (np.exp(log_q) * (log_q - log_p)).sum(-1)
    found = evaluate(model, ids, bos_id=BOS, context=context, stride=stride, reference=other)
    assert found.tokens == found.compared == 20
    assert figures(found) == pytest.approx(
        [
            nll.mean(),
            nll.std(ddof=1) / math.sqrt(20),
            kl.mean(),
            kl.std(ddof=1) / math.sqrt(20),
            (log_p.argmax(-1) == log_q.argmax(-1)).mean(),
        ],
        rel=1e-4,
    )


@pytest.mark.parametrize(("context", "stride"), CUTS)
@pytest.mark.parametrize("family", ["mistral", "mixtral-window", "ministral3"])
def test_passes_batches_and_chunks_change_nothing(
    family: str, context: int, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(**FAMILIES[family])
    model, other = tiny_model(config, seed=0), tiny_model(config, seed=1)
    ids = random_ids(33)

    def run() -> list[float | None]:
        return figures(
            evaluate(model, ids, bos_id=BOS, context=context, stride=stride, reference=other)
        )

    usual = run()
    for pass_tokens, elements in [(1, 1), (3, 150), (14, 244)]:
        monkeypatch.setattr(room, "PASS_TOKENS", pass_tokens)
        monkeypatch.setattr(scores, "CHUNK_ELEMENTS", elements)
        assert run() == pytest.approx(usual, rel=1e-4)


def test_a_window_hides_what_another_way_of_cutting_would_add() -> None:
    """Four layers with a window of 6 see 4 x 5 tokens back: 25 are always there."""
    windowed, full = tiny_model(tiny_config(sliding_window=6)), tiny_model(tiny_config())
    ids = random_ids(120)

    def nll(model: Model, context: int, stride: int) -> float:
        return evaluate(model, ids, bos_id=BOS, context=context, stride=stride).nll

    assert nll(windowed, 40, 15) == pytest.approx(nll(windowed, 200, 200), rel=1e-5)
    assert nll(windowed, 40, 40) != pytest.approx(nll(windowed, 200, 200), rel=1e-3)
    assert nll(full, 40, 15) != pytest.approx(nll(full, 200, 200), rel=1e-3)


def test_a_model_is_at_no_distance_from_itself_and_as_perplexed_as_alone() -> None:
    model, ids = tiny_model(tiny_config()), random_ids(50)
    alone = evaluate(model, ids, bos_id=BOS, context=16)
    beside = evaluate(model, ids, bos_id=BOS, context=16, reference=model)
    assert (beside.kl, beside.kl_error, beside.top1_agreement) == (0, 0, 1)
    assert beside.perplexity == alone.perplexity
    assert alone.kl is None


def test_a_model_without_a_preference_is_as_perplexed_as_its_vocabulary_is_large() -> None:
    model = tiny_model(tiny_config())
    model.lm_head.weight = mx.zeros_like(model.lm_head.weight)
    assert evaluate(model, random_ids(50), bos_id=BOS).perplexity == pytest.approx(61)


@pytest.mark.parametrize("context", [8, 40])
@pytest.mark.parametrize("name", ["nemo", "mixtral"])
def test_mlx_lm_finds_the_same_perplexity_and_error(
    name: str, context: int, tmp_path: Path
) -> None:
    """Its evaluator on its own model of the same folder, with rows that begin with BOS."""
    from mlx_lm.perplexity import eval_ppl
    from mlx_lm.utils import load_model as their_load_model

    folder = Path(__file__).parents[1] / "recordings" / name
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("rope_theta", (config.get("rope_parameters") or {}).get("rope_theta", 1e4))
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs, _ = their_load_model(tmp_path)
    theirs.set_dtype(mx.float32)
    ids = random_ids(240, config["vocab_size"])
    rows = [[BOS, *ids[i : i + context]] for i in range(0, len(ids), context)]
    perplexity, error = eval_ppl(theirs, mx.array(rows), batch_size=3)
    ours = load_model(folder, dtype="float32")
    found = evaluate(ours, ids, bos_id=BOS, context=context, stride=context)
    assert found.perplexity == pytest.approx(perplexity, rel=1e-4)
    assert found.perplexity_error == pytest.approx(error, rel=1e-4)


def test_progress_grows_to_the_whole_text() -> None:
    told: list[tuple[int, int]] = []
    model = tiny_model(tiny_config())
    evaluate(
        model, random_ids(2100), bos_id=BOS, context=1024,
        progress=lambda so_far, total: told.append((so_far.tokens, total)),
    )  # fmt: skip
    done = [tokens for tokens, _ in told]
    assert done == sorted(done)
    assert len(done) > 3
    assert told[-1] == (2100, 2100)


def test_memory_does_not_grow_with_the_text() -> None:
    model = tiny_model(tiny_config(vocab_size=2048, n_layers=1))
    peaks = []
    for n in (1300, 3900):
        mx.clear_cache()
        mx.reset_peak_memory()
        evaluate(model, random_ids(n), bos_id=BOS, context=256, reference=model)
        peaks.append(mx.get_peak_memory())
    assert peaks[1] < 1.1 * peaks[0]


def test_logits_of_a_long_block_are_never_all_there() -> None:
    """A block of 1,024 by 65,536 logits takes 268 MB in float32, and more to work on."""
    model = tiny_model(tiny_config(vocab_size=65536, n_layers=1))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    evaluate(model, random_ids(1024), bos_id=BOS, stride=2048)
    assert mx.get_peak_memory() - before < 200e6


def test_broken_weights_are_an_error_and_no_perplexity() -> None:
    good, bad = tiny_model(tiny_config()), tiny_model(tiny_config())
    bad.layers[1].mlp.up_proj.weight *= float("nan")
    with pytest.raises(EvaluationError, match="logits of the model"):
        evaluate(bad, random_ids(9), bos_id=BOS)
    with pytest.raises(EvaluationError, match="logits of the reference"):
        evaluate(good, random_ids(9), bos_id=BOS, reference=bad)


@pytest.mark.parametrize("ids", [[], [3, 61], [3, -1]])
def test_a_text_that_the_model_cannot_read_is_refused(ids: list[int]) -> None:
    with pytest.raises(EvaluationError):
        evaluate(tiny_model(tiny_config()), ids, bos_id=BOS)


def test_models_that_do_not_fit_each_other_or_the_context_are_refused() -> None:
    model, ids = tiny_model(tiny_config(max_seq_len=64)), random_ids(9)
    with pytest.raises(EvaluationError, match="vocabulary of 61"):
        evaluate(model, ids, bos_id=BOS, reference=tiny_model(tiny_config(vocab_size=64)))
    with pytest.raises(ContextError, match="65"):
        evaluate(model, ids, bos_id=BOS, context=65)
    with pytest.raises(ContextError, match="64"):
        evaluate(tiny_model(tiny_config()), ids, bos_id=BOS, context=65, reference=model)
    with pytest.raises(ContextError, match="stride"):
        evaluate(model, ids, bos_id=BOS, context=8, stride=9)
