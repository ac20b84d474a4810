"""Checks of the whole model: the bundled demo against a reply that NumPy computed in float64."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest

import mlx.core as mx
import numpy as np

from mlx_mistral.backend.select import use_backend
from mlx_mistral.batch_completion import batch_generate
from mlx_mistral.checkpoint import load_model
from mlx_mistral.completion import stream_generate
from mlx_mistral.demo import greedy_reply_path, model_path

from .check import REPORT, Measurement, Probe
from .setup import Setup
from .tolerance import ALLOWANCE, EPSILON, Array, relative_error, to_numpy

FLOAT32_ERROR = 1e-2
"""Limit of logits in float32. NumPy's differ by 1e-5; a GPU whose float32 products take inputs
of 10 bits (TF32) by 1e-3; a wrong operation in one layer by 1."""
CHUNKS = (7, 1, 30)
"""The prompt in chunks, of which the last passes the window of 48 tokens with the reply."""
OTHER_LENGTHS = (3, 20)
"""Tokens of shorter prompts that are decoded in one batch with the recorded one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedReply:
    """A greedy reply of the demo model, computed by another implementation."""

    prompt_ids: list[int]
    reply_ids: list[int]
    last_logits: Array
    """The logits from which the last id of the reply comes. Shapes: (vocab,)."""

    @classmethod
    def read(cls) -> RecordedReply:
        """Return the reply that is part of the package."""
        record = json.loads(greedy_reply_path().read_text(encoding="utf-8"))
        return cls(
            prompt_ids=record["prompt_ids"],
            reply_ids=record["reply_ids"],
            last_logits=np.array(record["last_logits"]),
        )


def reply_probes(setup: Setup) -> Iterator[Probe]:
    """Yield checks of the demo model's replies and logits."""
    yield Probe(
        name=setup.name("demo, logits in float32"),
        measure=partial(logits_error, setup, mx.float32),
        is_quick=True,
    )
    if setup.dtype != mx.float32:
        yield Probe(
            name=setup.name(f"demo, logits in {_name(setup.dtype)}"),
            measure=partial(logits_error, setup, setup.dtype),
            is_quick=True,
        )
    yield Probe(
        name=setup.name(f"demo, likeliest tokens in {_name(setup.dtype)}"),
        measure=partial(top_differences, setup),
        is_quick=True,
    )
    yield Probe(
        name=setup.name("demo, greedy reply in float32"),
        measure=partial(reply_differences, setup),
        advice=f"generated text may be wrong on this machine; {REPORT}",
    )
    yield Probe(
        name=setup.name("demo, greedy reply in an uneven batch"),
        measure=partial(batch_differences, setup),
    )


def logits_error(setup: Setup, dtype: mx.Dtype) -> Measurement:
    """Compare the logits of the reply's last token.

    Each of 6 layers rounds its two outputs, of which the residual stream is the sum: errors of
    2 * 6 roundings add up like their square root, to 4 epsilons.
    """
    recorded = RecordedReply.read()
    logits = _logits(setup, recorded, dtype)[-1]
    allowed = max(FLOAT32_ERROR, 4 * ALLOWANCE * EPSILON[dtype])
    return Measurement.error(relative_error(logits, recorded.last_logits), allowed)


def top_differences(setup: Setup) -> Measurement:
    """Count tokens of the reply that are not the likeliest, in the dtype of this machine.

    The second likeliest is 7 behind in every place, far more than what rounding moves a logit.
    """
    recorded = RecordedReply.read()
    likeliest = _logits(setup, recorded, setup.dtype).argmax(-1)
    return Measurement.differences(int((likeliest != np.array(recorded.reply_ids)).sum()))


def reply_differences(setup: Setup) -> Measurement:
    """Count tokens of the generated reply that are not the recorded ones."""
    recorded = RecordedReply.read()
    with use_backend(setup.backend):
        model = load_model(model_path(), dtype=mx.float32)
        responses = stream_generate(
            model, None, recorded.prompt_ids, max_tokens=len(recorded.reply_ids), temp=0.0
        )
        ids = [response.token for response in responses]
    return Measurement.differences(n_unequal(ids, recorded.reply_ids))


def batch_differences(setup: Setup) -> Measurement:
    """Count tokens that are not the recorded ones where other sequences share the batch."""
    recorded = RecordedReply.read()
    prompts = [recorded.prompt_ids, *(recorded.prompt_ids[:n] for n in OTHER_LENGTHS)]
    with use_backend(setup.backend):
        model = load_model(model_path(), dtype=mx.float32)
        batch = batch_generate(model, None, prompts, len(recorded.reply_ids), temp=0.0)
    return Measurement.differences(n_unequal(batch.token_ids[0], recorded.reply_ids))


def n_unequal(ids: Sequence[int], expected: Sequence[int]) -> int:
    """Return how many places of two lists differ; missing tokens count."""
    return sum(a != b for a, b in zip_longest(ids, expected))


def _logits(setup: Setup, recorded: RecordedReply, dtype: mx.Dtype) -> Array:
    """Return the logits from which the reply's tokens come, read in chunks.

    Shapes: -> (reply, vocab).
    """
    ids = recorded.prompt_ids + recorded.reply_ids[:-1]
    ends = np.cumsum(CHUNKS).tolist()
    with use_backend(setup.backend):
        model = load_model(model_path(), dtype=dtype)
        cache = model.make_cache()
        logits = [
            model(mx.array([ids[start:end]]), cache)[0]
            for start, end in zip([0, *ends], [*ends, len(ids)], strict=True)
        ]
        return to_numpy(mx.concatenate(logits))[-len(recorded.reply_ids) :]


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).rpartition(".")[2]
