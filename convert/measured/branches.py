"""One pass over a model that measures what quantizing each of its matrices alone would do.

At each matrix a branch of the hidden states splits off in which this one matrix is stored in a
probe format. All branches walk on through the later layers together, and the divergence of
their predictions is the damage at the probe. For every other format the damage follows from
the error of the matrix's own outputs, which is measured where the branch begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.checkpoint import Checkpoint
from mlx_mistral.config import QuantParams
from mlx_mistral.errors import ConversionError
from mlx_mistral.evaluation.layerwise import (
    CHUNK_TOKENS,
    LOGITS_BYTES,
    Ending,
    Layer,
    LayerWalk,
    split_rows,
)

from .damages import Damages
from .errors import lookup_error, module_at, output_error, recorded, stored_as
from .formats import CANDIDATES, Format, fitting

PROBES = (QuantParams(bits=3, group_size=64),)
TEXT_TOKENS = 512
"""Tokens of a text, unless branches would take too much memory."""
FEWEST_TOKENS = 32
BRANCH_BYTES = 10**9
ROUTER = "block_sparse_moe.gate"

Progress = Callable[[str, int, int], None]
"""Hears which part of the model comes next, how many are done, and how many there are."""


def measure(
    checkpoint: Checkpoint,
    calibration_ids: Sequence[int],
    *,
    bos_id: int | None,
    dtype: mx.Dtype | str | None = None,
    progress: Progress | None = None,
    candidates: Sequence[Format] = CANDIDATES,
    probes: Sequence[QuantParams] = PROBES,
    text_tokens: int = TEXT_TOKENS,
    branch_bytes: int = BRANCH_BYTES,
    stored: mx.Dtype = mx.bfloat16,
) -> Damages:
    """The damage of each candidate format to each matrix of a model of any size.

    The calibration text is cut into texts of one length, each behind `bos_id`. Memory holds
    one layer and a copy of its largest matrix, the inputs of its matrices on all texts, and
    branches of the first texts up to `branch_bytes`. `stored` is the dtype of the file's
    scales; `dtype` that of activations.
    Raises: ConversionError: the model is quantized already, or the text too short.
    """
    if checkpoint.config.quantization is not None:
        raise ConversionError(
            f"{checkpoint.headers.files[0].parent} is quantized already; measure the model that "
            "it was made from"
        )
    walk = LayerWalk(checkpoint, dtype=dtype)
    return _Pass(walk, candidates, probes, stored, progress).run(
        calibration_ids, bos_id, text_tokens, branch_bytes
    )


class _Pass:
    """The state of one walk: the unbranched texts, and all branches so far."""

    def __init__(
        self,
        walk: LayerWalk,
        candidates: Sequence[Format],
        probes: Sequence[QuantParams],
        stored: mx.Dtype,
        progress: Progress | None,
    ) -> None:
        self._walk = walk
        self._candidates, self._probes, self._stored = candidates, probes, stored
        self._progress = progress
        self._errors: dict[str, list[dict[QuantParams, float]]] = {}
        self._branches: dict[tuple[str, QuantParams], mx.array] = {}

    def run(
        self, ids: Sequence[int], bos_id: int | None, text_tokens: int, branch_bytes: int
    ) -> Damages:
        per_token = self._branch_count() * self._walk.config.dim * self._walk.dtype.size
        affordable = max(branch_bytes // per_token, FEWEST_TOKENS)
        tokens = cut(ids, bos_id, min(text_tokens, affordable))
        length = tokens.shape[1]
        n_branched = min(max(1, affordable // length), tokens.shape[0])
        tokens = spread_first(tokens, n_branched)
        self._hear("embeddings", 0)
        states = self._embed(tokens, n_branched)
        for layer in self._walk.layers(length):
            self._hear(f"layer {layer.index}", layer.index + 1)
            self._layer(layer, states, n_branched)
        self._hear("head", self._walk.config.n_layers + 1)
        divergences = self._end(states, n_branched)
        self._hear("done", self._walk.config.n_layers + 2)
        by_path = {
            path: damages_from(errors, {probe: divergences[path, probe] for probe in self._probes})
            for path, errors in self._errors.items()
        }
        return Damages(
            by_path=by_path,
            probes=tuple(self._probes),
            tokens=tokens.size,
            branch_tokens=n_branched * length,
        )
