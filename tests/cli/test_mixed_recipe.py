"""A model converted with a mixed recipe generates from prompts that end next to a chunk's end."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from command_line import Run

from mlx_mistral import load, stream_generate, tuning

RECIPE = ("--recipe", "mixed_3_6", "--group-size", "32")
"""v_proj of the last layer in 6 bits, its q_proj and k_proj in 3: they have no common form."""
MAX_TOKENS = 4
TOLERANCE = 5e-3
"""Logits are up to 18. Scores of the random model reach 90 before softmax, which magnifies
rounding of 4e-6 a hundredfold."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for measured chunk sizes."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(folder))
    return folder


def check_prompts_around_chunks(run: Run, folder: Path, *, chunk: int) -> None:
    """Assert that prompts of 1, chunk + 1 and 2 chunk + 1 tokens have the logits of a full pass."""
    model, tokenizer = load(folder)
    assert model.layers[-1].self_attn.fused() is None
    assert tuning.prefill_tokens(model.config, model.dtype) == chunk
    for length in (1, chunk + 1, 2 * chunk + 1):
        text = " ".join(["the"] * (length - 1))
        prompt = [tokenizer.bos_id, *tokenizer.encode(text)]
        assert len(prompt) == length
        responses = list(stream_generate(model, None, prompt, max_tokens=MAX_TOKENS))
        tokens = [response.token for response in responses]
        logits = np.stack([np.array(response.step.logits) for response in responses])
        full_pass = model(mx.array([[*prompt, *tokens[:-1]]]))[0, length - 1 :]
        np.testing.assert_allclose(logits, np.array(full_pass), atol=TOLERANCE)
        assert tokens == logits.argmax(axis=1).tolist()
        if text:
            ended = run(
                "generate", folder, "--raw", "-p", text, "--max-tokens", MAX_TOKENS, "--json"
            )
            assert ended.status == 0, ended.err
            assert ended.json["prompt_tokens"] == length
            generated = ended.json["token_ids"]
            assert generated == tokens[: len(generated)]


def test_a_dense_model_reads_512_tokens_and_one_more(run: Run, tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    assert run("convert", tiny, folder, *RECIPE).status == 0
    check_prompts_around_chunks(run, folder, chunk=tuning.PREFILL_TOKENS)


def test_the_demo_mixture_reads_measured_chunks_and_one_token_more(
    run: Run, tmp_path: Path, home: Path
) -> None:
    """A chunk of 32 tokens, as if it had been measured: 1024, the rule, would take seconds."""
    folder = tmp_path / "mixed"
    assert run("convert", "demo", folder, *RECIPE).status == 0
    model, _ = load(folder, lazy=True)
    measured = {tuning.key(model.config, model.dtype): 32}
    (home / tuning.FILE).write_text(json.dumps(measured))
    check_prompts_around_chunks(run, folder, chunk=32)
