"""How much a conversion cost: source and result side by side on one text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.errors import ConversionError
from mlx_mistral.evaluation import Scores, blocks, score
from mlx_mistral.evaluation.blocks import choose_context, describe
from mlx_mistral.evaluation.layerwise import LayerWalk, logits_in_parts

HIDDEN_BYTES = 512 << 20
"""What the two models make of the text between two layers; a longer text is cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The source's scores, and the result's with the source as its reference."""

    source: Scores
    result: Scores
    method: str

    def to_json(self) -> dict[str, Any]:
        return {
            "tokens": self.result.tokens,
            "method": self.method,
            "perplexity_before": self.source.perplexity,
            "perplexity": self.result.perplexity,
            "kl": self.result.kl,
            "top1_agreement": self.result.top1_agreement,
        }


def compare(
    source: str | Path,
    result: str | Path,
    ids: Sequence[int],
    *,
    bos_id: int,
    dtype: mx.Dtype | str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Perplexity of both on a text, cut into blocks without overlap, and KL(source || result).

    Memory holds one layer of one of the models, so neither has to fit.
    progress: called with layers done and all layers of both.
    Raises: ConversionError: the text has no token. CheckpointError: a model cannot be read.
        EvaluationError: logits are not numbers, or the tokens not the model's.
    """
    walks = [LayerWalk(Checkpoint(folder), dtype=dtype) for folder in (source, result)]
    config = walks[0].config
    ids = ids[: HIDDEN_BYTES // (2 * 4 * config.dim)]
    if not ids:
        raise ConversionError("the text has no token to compare on; give more text")
    context = choose_context(None, config)
    cut = list(blocks(ids, bos_id=bos_id, context=context, stride=context))
    tokens = mx.array([block.inputs for block in cut])  # all alike in length
    targets = np.full(tokens.shape, -1)
    for row, block in zip(targets, cut, strict=True):
        row[len(row) - len(block.targets) :] = block.targets
    flat = targets.reshape(-1)
    before, after = Scores(), Scores()
    for part, (theirs, ours) in logits_in_parts(walks, tokens, progress=progress):
        asked = np.flatnonzero(flat[part] >= 0)
        if asked.size:
            rows, wanted = mx.array(asked), mx.array(flat[part][asked])
            before = before.add(score(theirs[rows], wanted))
            after = after.add(score(ours[rows], wanted, theirs[rows]))
    method = describe(len(ids), context=context, stride=context)
    return Comparison(source=before, result=after, method=method)
