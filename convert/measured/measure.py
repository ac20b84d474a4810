"""How much each format of each matrix damages a model's predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import mlx.core as mx

from mlx_mistral.checkpoint import Checkpoint
from mlx_mistral.config import QuantParams
from mlx_mistral.errors import ConversionError
from mlx_mistral.evaluation.layerwise import LayerWalk

from .branches import BranchingPass
from .damages import Damages
from .formats import CANDIDATES, Format
from .texts import cut, sampled, spread_first

PROBES = (QuantParams(bits=3, group_size=64),)
TEXT_TOKENS = 512
MOST_TOKENS = 8192
"""Of all texts: what goes into a layer's matrices is held, some 100 kB a token in a 7B model."""
FEWEST_TOKENS = 32
"""Of a text, even if its branches then take more than they may."""
BRANCH_BYTES = 10**9
MATRICES_OF_A_LAYER, OTHER_MATRICES = 7, 2


def measure(
    checkpoint: Checkpoint,
    calibration_ids: Sequence[int],
    *,
    bos_id: int | None,
    dtype: mx.Dtype | str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    candidates: Sequence[Format] = CANDIDATES,
    probes: Sequence[QuantParams] = PROBES,
    text_tokens: int = TEXT_TOKENS,
    most_tokens: int = MOST_TOKENS,
    branch_bytes: int = BRANCH_BYTES,
    stored: mx.Dtype = mx.bfloat16,
) -> Damages:
    """The damage of each candidate format to each matrix of a model of any size, in nats a token.

    The calibration text, or pieces of `most_tokens` from all over it, is cut into texts of up to
    `text_tokens`, each behind `bos_id`. Memory holds one layer and a copy of its largest matrix,
    the hidden states of all texts and what goes into one layer's matrices, and the branches of
    as many texts as `branch_bytes` allow.
    `progress` hears which part comes next, how many are done, and how many there are.
    `stored` is the dtype of the file's scales, `dtype` that of activations.
    Raises: ConversionError: the model is quantized already, or there is hardly any text.
    """
    config = checkpoint.config
    if config.quantization is not None:
        raise ConversionError(
            f"{checkpoint.headers.files[0].parent} is quantized already; measure the model that "
            "it was made from"
        )
    walk = LayerWalk(checkpoint, dtype=dtype)
    branches = (MATRICES_OF_A_LAYER * config.n_layers + OTHER_MATRICES) * len(probes)
    affordable = branch_bytes // (branches * config.dim * walk.dtype.size)
    length = min(text_tokens, max(FEWEST_TOKENS, affordable))
    tokens = cut(sampled(calibration_ids, most_tokens, length), bos_id, length)
    n_branched = min(max(1, affordable // tokens.shape[1]), tokens.shape[0])
    return BranchingPass(
        walk,
        spread_first(tokens, n_branched),
        n_branched,
        candidates=candidates,
        probes=probes,
        stored=stored,
        progress=progress,
    ).run()
