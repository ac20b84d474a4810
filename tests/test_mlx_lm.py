"""Our models run inside mlx-lm's own loops, and agree with its models where it is exact."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from tiny import FAMILIES, random_ids, tiny_config, tiny_model

from mlx_mistral.generation import Sampling, generate_ids
from mlx_mistral.model import Model

mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm belongs to the test extra")


def ours(model: Model, prompt: list[int], n: int) -> list[int]:
    steps = generate_ids(model, prompt, cache=model.make_cache(), sampling=Sampling(), max_tokens=n)
    return [step.token for step in steps]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step_size", [2048, 7])
def test_generate_step_makes_the_same_tokens(family: str, step_size: int) -> None:
    from mlx_lm.generate import generate_step

    model, prompt = tiny_model(tiny_config(**FAMILIES[family])), random_ids(20)
    steps = generate_step(mx.array(prompt), model, max_tokens=12, prefill_step_size=step_size)
    assert [int(token) for token, _ in steps] == ours(model, prompt, 12)


@pytest.fixture(scope="module")
def word_tokenizer() -> object:
    """A tokenizer of mlx-lm's kind, with one word an id."""
    from mlx_lm.tokenizer_utils import TokenizerWrapper
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(61)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return TokenizerWrapper(PreTrainedTokenizerFast(tokenizer_object=words), eos_token_ids=[60])


@pytest.mark.parametrize("family", ["mistral", "mixtral-window", "ministral"])
def test_stream_generate_with_its_tokenizer_makes_the_same_tokens(
    family: str, word_tokenizer: object
) -> None:
    model, prompt = tiny_model(tiny_config(**FAMILIES[family])), random_ids(20)
    made = mlx_lm.stream_generate(model, word_tokenizer, prompt, max_tokens=12)
    tokens = [response.token for response in made]
    expected = ours(model, prompt, 12)
    assert tokens[: len(expected)] == expected or 60 in tokens


def test_a_trimmed_cache_goes_on_in_its_loop() -> None:
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, trim_prompt_cache

    model, prompt = tiny_model(tiny_config()), random_ids(20)
    cache = make_prompt_cache(model)
    model(mx.array([[*prompt, 5, 6, 7]]), cache)
    assert can_trim_prompt_cache(cache)
    assert trim_prompt_cache(cache, 4) == 4
    steps = generate_step(mx.array(prompt[-1:]), model, max_tokens=8, prompt_cache=cache)
    assert [int(token) for token, _ in steps] == ours(model, prompt, 8)


@pytest.mark.parametrize("name", ["mistral", "nemo", "mixtral", "ministral3", "devstral2"])
def test_its_own_model_of_the_same_folder_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    """Up to float32 rounding. Its Mistral needs theta spelled the older way, at the top."""
    import json

    from mlx_lm.utils import load_model as their_load_model

    from mlx_mistral.checkpoint import load_model

    folder = Path(__file__).parent / "recordings" / name
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("rope_theta", (config.get("rope_parameters") or {}).get("rope_theta", 1e4))
    (tmp_path / "config.json").write_text(json.dumps(config))
    tokens = mx.array([random_ids(40, config["vocab_size"])])
    theirs, _ = their_load_model(tmp_path)
    theirs.set_dtype(mx.float32)
    difference = theirs(tokens) - load_model(folder, dtype="float32")(tokens)
    assert np.abs(np.array(difference)).max() < 2e-5
