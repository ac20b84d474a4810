"""A model run layer by layer from its files, so that it may be larger than memory.

One layer's weights are held at a time: all texts go through it before the next one is read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_mistral.backend.ops import Rotation
from mlx_mistral.cache import Mask, attention_mask
from mlx_mistral.checkpoint import Checkpoint
from mlx_mistral.checkpoint.dtype import resolve_dtype
from mlx_mistral.checkpoint.load import fill, hollow_model
from mlx_mistral.model.rope import query_scale
from mlx_mistral.model.transformer import Block

CHUNK_TOKENS = 2048
"""Tokens that go through a layer at once."""
LOGITS_BYTES = 128 * 2**20
"""Logits that are held at once, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A block with its weights, and what all texts of one length share in it."""

    index: int
    path: str
    """Where it stands in the model: `model.layers.3`."""
    block: Block
    rotation: Rotation
    mask: Mask
    query_scale: mx.array | None

    def __call__(self, x: mx.array) -> mx.array:
        """Texts from their first token on, evaluated. Shapes: (B, T, dim) -> (B, T, dim)."""
        out = self.block(x, self.rotation, self.mask, None, self.query_scale)
        mx.eval(out)
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What follows the last layer. The head is the table of embeddings where they are tied."""

    norm: nn.RMSNorm
    head: nn.Module
    tied: bool

    def __call__(self, x: mx.array) -> mx.array:
        """Shapes: (..., dim) -> (..., vocab) logits in float32."""
        x = self.norm(x)
        logits: mx.array = self.head.as_linear(x) if self.tied else self.head(x)
        return logits.astype(mx.float32)


class LayerWalk:
    """A checkpoint of any layout, run with one layer in memory.

    The steps in order: `embed`, each of `layers`, `ending`; the first two at once: `hidden`.
    Weights are given back when the walk moves on, so a Layer that is kept computes nothing
    useful later. A walk may be repeated.
    Raises: CheckpointError: the checkpoint's tensors are not those of its configuration, or
        its data cannot be read.
    """

    def __init__(self, checkpoint: Checkpoint, *, dtype: mx.Dtype | str | None = None) -> None:
        self.config = checkpoint.config
        self.dtype = resolve_dtype(dtype)
        self._checkpoint = checkpoint
        where = str(checkpoint.headers.files[0].parent)
        self._model = hollow_model(checkpoint, where)

    @contextmanager
    def _weights(self, module: nn.Module, path: str) -> Iterator[None]:
        """Inside, a module of the model has its weights; outside, it takes no memory."""
        placeholders = module.parameters()
        fill(module, self._checkpoint, path, self.dtype)
        try:
            yield
        finally:
            module.update(placeholders)
            mx.clear_cache()

    @contextmanager
    def embedding(self) -> Iterator[nn.Embedding]:
        """The table of token embeddings, which `look_up` reads while this is open."""
        table = self._model.model.embed_tokens
        with self._weights(table, "model.embed_tokens"):
            yield table

    def embed(self, tokens: mx.array) -> mx.array:
        """Shapes: (B, T) ints -> (B, T, dim). An id outside the vocabulary becomes NaN."""
        with self.embedding():
            return self.look_up(tokens)

    def look_up(self, tokens: mx.array) -> mx.array:
        """The same inside `embedding`."""
        out = self._model.model.embed(tokens).astype(self.dtype)
        mx.eval(out)
        return out

    def layers(self, n_tokens: int) -> Iterator[Layer]:
        """The layers in order, each read when the one before it is done with.

        For texts of `n_tokens` tokens that begin at position 0.
        """
        scaling = self.config.query_scaling
        scale = query_scale(scaling, 0, n_tokens) if scaling else None
        rotation = self._model.model.rotation(0, n_tokens, self.dtype)
        for index, (block, window) in enumerate(
            zip(self._model.layers, self.config.windows, strict=True)
        ):
            path = f"model.layers.{index}"
            mask = attention_mask(n_tokens, 0, window)
            with self._weights(block, path):
                yield Layer(
                    index=index,
                    path=path,
                    block=block,
                    rotation=rotation,
                    mask=mask,
                    query_scale=scale,
                )

    @contextmanager
    def ending(self) -> Iterator[Ending]:
        """The last norm and the head, with their weights."""
        decoder, tied = self._model.model, self.config.tied_embeddings
        head = decoder.embed_tokens if tied else self._model.lm_head
        with (
            self._weights(decoder.norm, "model.norm"),
            self._weights(head, "model.embed_tokens" if tied else "lm_head"),
        ):
            yield Ending(norm=decoder.norm, head=head, tied=tied)

    def hidden(
        self, tokens: mx.array, *, progress: Callable[[int, int], None] | None = None
    ) -> mx.array:
        """What the last layer makes of every token; `progress` hears layers done and all layers.

        Shapes: (B, T) ints -> (B, T, dim).
        """
        states = split_rows(self.embed(tokens))
        for layer in self.layers(tokens.shape[1]):
            run_in_place(layer, states)
            if progress:
                progress(layer.index + 1, self.config.n_layers)
        return mx.concatenate(states)


def split_rows(x: mx.array, chunk_tokens: int = CHUNK_TOKENS) -> list[mx.array]:
    """Texts in parts of about so many tokens. Shapes: (B, T, dim) -> (b, T, dim) each."""
    rows = max(1, chunk_tokens // x.shape[1])
    parts = [mx.contiguous(x[start : start + rows]) for start in range(0, x.shape[0], rows)]
    mx.eval(parts)
    return parts


def run_in_place(layer: Callable[[mx.array], mx.array], states: list[mx.array]) -> None:
    """Puts what a layer makes of each part in the part's place."""
    for number in range(len(states)):
        states[number] = layer(states[number])


def logits_in_parts(
    walks: Sequence[LayerWalk],
    tokens: mx.array,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[slice, list[mx.array]]]:
    """The logits of one or more models on the same texts, some tokens at a time.

    Yields which tokens they are, in the order of `tokens.flatten()`, and each model's logits
    in float32. The models run one after the other, so that memory holds one layer, what
    the last ones made, the heads, and `LOGITS_BYTES` of logits. `progress` hears of layers.
    Shapes: (B, T) ints -> (n, vocab) for each walk.
    """
    total = sum(walk.config.n_layers for walk in walks)
    hidden, done = [], 0
    for walk in walks:

        def hear(layers: int, _: int, before: int = done) -> None:
            if progress:
                progress(before + layers, total)

        hidden.append(walk.hidden(tokens, progress=hear).flatten(0, 1))
        done += walk.config.n_layers
    yield from _heads_in_parts(walks, hidden)


def _heads_in_parts(
    walks: Sequence[LayerWalk], hidden: Sequence[mx.array]
) -> Iterator[tuple[slice, list[mx.array]]]:
    vocab = max(walk.config.vocab_size for walk in walks)
    size = max(1, LOGITS_BYTES // (4 * vocab * len(walks)))
    with ExitStack() as stack:
        endings = [stack.enter_context(walk.ending()) for walk in walks]
        n_tokens = hidden[0].shape[0]
        for start in range(0, n_tokens, size):
            part = slice(start, min(start + size, n_tokens))
            yield part, [end(x[part]) for end, x in zip(endings, hidden, strict=True)]
