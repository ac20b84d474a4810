"""A text through a model, and through a reference beside it, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import mlx.core as mx
import numpy as np

from mlx_mistral.errors import EvaluationError
from mlx_mistral.model import Model
from mlx_mistral.token_ids import TokenIds, plain_ids

from .blocks import Block, blocks, choose_context, default_stride
from .scores import Scores, row_chunks, score

PASS_TOKENS = 1024
"""Tokens that go through the layers at once: of several short blocks, or a part of a long one."""
NOT_ASKED = -1
"""Stands in the place of a target that is not scored here."""

Progress = Callable[[Scores, int], None]
"""Called with the scores so far and the number of tokens that there are."""


def evaluate(
    model: Model,
    ids: TokenIds,
    *,
    bos_id: int,
    context: int | None = None,
    stride: int | None = None,
    reference: Model | None = None,
    progress: Progress | None = None,
) -> Scores:
    """How well a model predicts a text, and how far it is from a reference on it.

    ids: the text without BOS; each block is read after one. Each token is scored once.
    context: the most tokens of a block (default: the model's own, at most 2048).
    stride: new tokens of a block (default: half of it); see `blocks`.
    Raises: ContextError: context or stride do not fit. EvaluationError: there is no token, one
        is outside the vocabulary, the two models' vocabularies differ, or logits are NaN.
    """
    ids = plain_ids(ids, "the text")
    models = [model] if reference is None else [model, reference]
    context = choose_context(context, *(one.config for one in models))
    stride = default_stride(context) if stride is None else stride
    _check(models, ids, bos_id)
    total = Scores()
    for batch in _batches(blocks(ids, bos_id=bos_id, context=context, stride=stride), context):
        for part in _score_batch(models, batch):
            total = total.add(part)
            if progress:
                progress(total, len(ids))
    return total


def _check(models: Sequence[Model], ids: Sequence[int], bos_id: int) -> None:
    vocab_size = models[0].config.vocab_size
    if models[-1].config.vocab_size != vocab_size:
        raise EvaluationError(
            f"the model has a vocabulary of {vocab_size}, the reference one of "
            f"{models[-1].config.vocab_size}; compare models of one vocabulary"
        )
    if not ids:
        raise EvaluationError("the text has no token; give some text")
    for token in (bos_id, min(ids), max(ids)):
        if not 0 <= token < vocab_size:
            raise EvaluationError(
                f"token id {token} is outside the model's vocabulary of {vocab_size}; "
                "the tokenizer does not belong to this model"
            )


def _batches(found: Iterator[Block], context: int) -> Iterator[list[Block]]:
    """As many blocks as are read side by side; those of one text are equally long."""
    while batch := list(islice(found, max(1, PASS_TOKENS // context))):
        yield batch


def _score_batch(models: Sequence[Model], batch: Sequence[Block]) -> Iterator[Scores]:
    """The scores of each pass. All models read it before the next one, each with its caches."""
    inputs = mx.array([block.inputs for block in batch])
    targets = np.full(inputs.shape, NOT_ASKED)
    for row, block in zip(targets, batch, strict=True):
        row[-len(block.targets) :] = block.targets
    step = max(1, PASS_TOKENS // len(batch))
    caches = [model.make_cache() for model in models]
    for start in range(0, inputs.shape[1], step):
        part = targets[:, start : start + step].flatten()
        asked = np.flatnonzero(part != NOT_ASKED)
        hidden = []
        for model, cache in zip(models, caches, strict=True):
            out = model.model(inputs[:, start : start + step], cache)  # (B, T, dim)
            hidden.append(out.flatten(0, 1)[mx.array(asked)])
            mx.eval(hidden[-1], [one.state for one in cache])
        yield _score_hidden(models, hidden, part[asked])
        mx.clear_cache()


def _score_hidden(
    models: Sequence[Model], hidden: Sequence[mx.array], targets: np.ndarray
) -> Scores:
    """Shapes: hidden (N, dim) of each model, N targets."""
    total = Scores()
    for rows in row_chunks(len(targets), models[0].config.vocab_size):
        logits = [model.head(one[rows]) for model, one in zip(models, hidden, strict=True)]
        total = total.add(score(logits[0], mx.array(targets[rows]), *logits[1:]))
    return total
