"""Prompts are read in chunks that were measured here, and in those of the rule elsewhere."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral import batch_generate, stream_generate, tuning
from mlx_mistral.backend.scratch import CPU
from mlx_mistral.config.quantization import QuantConfig
from mlx_mistral.memory import ModelNeeds
from mlx_mistral.model.transformer import Decoder
from tests.tiny import FAMILIES, random_ids, tiny_config, tiny_model

DENSE, MIXTURE = tiny_config(), tiny_config(**FAMILIES["mixtral"])


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLX_MISTRAL_HOME", str(tmp_path))
    return tmp_path / tuning.FILE


def test_a_measured_chunk_is_that_of_its_architecture_and_type_alone(home: Path) -> None:
    home.write_text(json.dumps({tuning.key(DENSE, "float32"): 96}))
    assert tuning.prefill_tokens(DENSE, "float32") == 96
    assert tuning.prefill_tokens(DENSE, mx.float32) == 96
    assert tuning.prefill_tokens(DENSE, mx.bfloat16) == tuning.rule(DENSE)
    assert tuning.prefill_tokens(replace(DENSE, dim=32), "float32") == tuning.rule(DENSE)
    assert tuning.prefill_tokens(MIXTURE, "float32") == tuning.rule(MIXTURE)


def test_a_quantized_model_has_a_chunk_of_its_own(home: Path) -> None:
    """Its configuration holds a mapping, so it has no hash."""
    quantized = replace(DENSE, quantization=QuantConfig.from_json({"bits": 4, "group_size": 32}))
    home.write_text(json.dumps({tuning.key(quantized, "float32"): 96}))
    assert tuning.prefill_tokens(quantized, "float32") == 96
    assert tuning.prefill_tokens(DENSE, "float32") == tuning.rule(DENSE)


@pytest.mark.parametrize("value", [0, -1, 15, 1 << 20, True, 96.0, "96", None, [96]])
def test_a_value_that_is_no_chunk_is_passed_over(home: Path, value: object) -> None:
    home.write_text(json.dumps({tuning.key(DENSE, "float32"): value}))
    assert tuning.prefill_tokens(DENSE, "float32") == tuning.rule(DENSE)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 9999, "\0" * 8])
def test_a_damaged_file_is_as_none(home: Path, text: str) -> None:
    home.write_text(text)
    assert tuning.prefill_tokens(DENSE, "float32") == tuning.rule(DENSE)


def test_a_folder_in_its_place_is_as_none(home: Path) -> None:
    home.mkdir()
    assert tuning.prefill_tokens(DENSE, "float32") == tuning.rule(DENSE)


def test_what_was_measured_is_what_prompts_are_read_in(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, prompt = tiny_model(DENSE), random_ids(100, DENSE.vocab_size)
    sizes: list[int] = []
    inner = Decoder.__call__

    def passes(self: Decoder, tokens: mx.array, *args: object, **kwargs: object) -> mx.array:
        sizes.append(tokens.shape[1])
        return inner(self, tokens, *args, **kwargs)

    def read_in(**options: int) -> list[int]:
        sizes.clear()
        list(stream_generate(model, None, prompt, max_tokens=1, **options))
        return sizes

    monkeypatch.setattr(Decoder, "__call__", passes)
    assert read_in() == [100]
    home.write_text(json.dumps({tuning.key(DENSE, "float32"): 48}))
    assert read_in() == [48, 48, 4]
    assert read_in(prefill_step_size=64) == [64, 36]
    sizes.clear()
    batch_generate(model, None, [prompt], max_tokens=1)
    assert sizes == [48, 48, 4]


def test_a_plan_reckons_with_what_was_measured(home: Path) -> None:
    def workspace() -> int:
        needs = ModelNeeds.of_unquantized(DENSE, dtype="float32", scratch=CPU)
        return needs.plan(4096, 1 << 40).workspace_bytes

    before = workspace()
    home.write_text(json.dumps({tuning.key(DENSE, "float32"): 2048}))
    assert workspace() > before
