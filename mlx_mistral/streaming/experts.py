"""A layer's experts at work, each as soon as it is in memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_mistral.backend.dispatch import Dispatch
from mlx_mistral.model.transformer import Block

from .slot import Key
from .stream import ExpertStream


class NextRouter:
    """What the next layer's router will choose, guessed from what this layer's experts are given.

    The residual stream changes little from one layer to the next, so the next router is applied
    to it before this layer's experts have added to it. Both layers scale the same normalized
    stream, so the ratio of their scales turns one's input into the other's.
    Source: arXiv:2312.17238, section 3.2.
    """

    def __init__(self, block: Block, next_block: Block) -> None:
        scale = block.post_attention_layernorm.weight
        is_zero = scale == 0
        next_scale = next_block.post_attention_layernorm.weight
        self._ratio = mx.where(is_zero, 0, next_scale / mx.where(is_zero, 1, scale))
        mx.eval(self._ratio)
        self._gate = next_block.block_sparse_moe.gate

    def __call__(self, x: mx.array) -> mx.array:
        """Scores of the next layer's experts. Shapes: (B, T, dim) -> (B * T, E) float32."""
        scores: mx.array = self._gate(x * self._ratio)
        return scores.astype(mx.float32).flatten(0, -2)


class StreamedExperts(nn.Module):
    """In place of `model.experts.Experts`: the same results from experts that come and go.

    The host must know the router's choice to find the experts, so each layer waits for the
    device once. What a layer lacks is asked of the disk together, then what the next one seems
    to need; meanwhile those in memory compute. When not all of them have room at once, or the
    tokens are many, each is computed and released before the next: a chunk reads each once.
    """

    def __init__(
        self,
        stream: ExpertStream,
        layer: int,
        next_router: NextRouter | None,
        dispatch: Callable[[int], Dispatch],
    ) -> None:
        """dispatch: returns how n routed rows are grouped where experts are resident."""
        super().__init__()
        self._stream, self._layer = stream, layer
        self._next_router = next_router
        self._dispatch = dispatch

    def __call__(self, x: mx.array, chosen: mx.array) -> mx.array:
        """Shapes: (B, T, dim), (B, T, k) -> (B, T, k, dim), one result an expert."""
        is_ahead = self._next_router is not None and self._stream.reads_ahead
        scores = self._next_router(x) if self._next_router and is_ahead else None
        mx.eval(chosen, [] if scores is None else scores)
        routed = np.array(chosen).reshape(-1)
        order = np.argsort(routed, kind="stable")
        experts, starts = np.unique(routed[order], return_index=True)
        rows = dict(zip(experts.tolist(), np.split(order, starts[1:]), strict=True))
        guesses = [] if scores is None else self._likely(np.array(scores), chosen.shape[-1])
        done = self._compute(x.flatten(0, -2), rows, guesses, chosen)
        return done.reshape(*chosen.shape, -1)

    def _compute(
        self, x: mx.array, rows: dict[int, np.ndarray], guesses: list[Key], chosen: mx.array
    ) -> mx.array:
        """Shapes: (N, dim) -> (N * k, dim), in the order of the choices."""
        stream, top_k = self._stream, chosen.shape[-1]
        dispatch = self._dispatch(chosen.size)
        shares = {expert: len(places) / x.shape[0] for expert, places in rows.items()}
        order = [(self._layer, expert) for expert in stream.turn(self._layer, shares)]
        parts, begun, at_once = [], 0, False
        fence = None
        try:
            for number, key in enumerate(order):
                if begun < len(order):
                    while begun < len(order) and stream.begin(order[begun]):
                        begun += 1
                    if begun == len(order):
                        for guess in guesses:
                            if not stream.begin(guess, guessed=guesses):
                                break
                    if number == 0:
                        at_once = begun == len(order) and not dispatch.is_sorted
                slot = stream.take(key)
                tokens = rows[key[1]] // top_k
                parts.append(dispatch.run_expert(x, tokens, slot))
                if not at_once:
                    mx.eval(parts[-1])
                    stream.release([key])
            places = np.concatenate([rows[expert] for _, expert in order])
            out = mx.concatenate(parts)[mx.array(np.argsort(places))]
            fence = out if at_once else None
        finally:
            stream.release(order, fence)
        return out

    def _likely(self, scores: np.ndarray, top_k: int) -> list[Key]:
        """The next layer's top-k for each token, the most wanted first. Shapes: (N, E)."""
        best = np.argpartition(scores, -top_k, axis=-1)[:, -top_k:]
        return [(self._layer + 1, one) for one, _ in Counter(best.ravel().tolist()).most_common()]
