"""Drafts are checked by streamed experts as by resident ones."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import pytest

from mlx_mistral.checkpoint import load_model
from mlx_mistral.generation import Sampler, Sampling, generate_ids
from mlx_mistral.generation.prefill import prefill
from mlx_mistral.generation.speculate import DraftingDecoder, DraftLength, NgramDrafter
from mlx_mistral.streaming import load_streaming
from tests.checkpoint.models import EXPERTS, LAYERS, VOCAB
from tests.streaming.folders import FOLDERS
from tests.tiny import random_ids

N = 24


class Always(DraftLength):
    def choose(self, match: int) -> int:
        return 3


@pytest.mark.parametrize("slots", [2, 5, LAYERS * EXPERTS])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temp=0.8, seed=1)], ids=str)
def test_the_text_is_that_of_the_resident_model(
    slots: int, sampling: Sampling, tmp_path: Path
) -> None:
    folder, prompt = FOLDERS["hf-f32"](tmp_path / "model"), random_ids(12, VOCAB)
    resident = load_model(folder)
    steps = generate_ids(
        resident, prompt, cache=resident.make_cache(), sampling=sampling, max_tokens=N
    )
    expected = [step.token for step in steps]
    model = load_streaming(folder, slots=slots)
    cache = model.make_cache()
    # What is copied goes wrong in its middle.
    copied = [*expected[:11], (expected[11] + 1) % VOCAB, *expected[12:]]
    drafter = NgramDrafter([*prompt, *copied, *prompt])
    logits = prefill(model, mx.array([prompt]), cache, step_size=512)
    sampler = Sampler(sampling, VOCAB, [prompt])
    decoder = DraftingDecoder(model, cache, sampler, drafter, lengths=Always())
    assert [step.token for step in decoder.decode(logits, N)] == expected
    assert 0 < decoder.counts.accepted < decoder.counts.drafted
    model.streaming.close()
