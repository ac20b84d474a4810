"""What is looked at while a model draws tokens: probabilities and experts."""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlx_mistral.generation import Seen
from mlx_mistral.model import Model

from .commands import Watch
from .events import Alternative, Routed

if TYPE_CHECKING:
    from mlx_mistral.text import Tokenizer

ALTERNATIVES = 8


class Watcher:
    """A `mlx_mistral.generation.Watch` that follows what is wanted, also in mid-reply.

    Nothing waits for the device: what is to be seen is computed with the token.
    """

    def __init__(self, model: Model, tokenizer: Tokenizer) -> None:
        moe = [layer.block_sparse_moe for layer in model.layers if "block_sparse_moe" in layer]
        self.wanted = Watch()
        self._moe: list[Any] = moe
        self._chosen: deque[mx.array] = deque(maxlen=len(moe))
        self._listens = False
        self._n_experts = model.config.moe.num_experts if model.config.moe else 0
        self._routed: list[mx.array] = []
        """Of the tokens since they were last told, (L, k) each."""
        self._text = lru_cache(maxsize=4096)(lambda token: _text_of(tokenizer, token))

    def __call__(self, logits: mx.array, tokens: mx.array) -> Seen:
        """Shapes: (1, vocab), (1,)."""
        wanted = self.wanted
        seen: dict[str, mx.array] = {}
        if wanted.probabilities:
            seen |= likeliest(logits[0], tokens)
        if self._chosen and len(self._chosen) == len(self._moe):
            seen["experts"] = _last(self._chosen)
        self.listen(wanted.experts)
        return seen

    def listen(self, wanted: bool) -> None:
        """Whether the routers tell what they choose, from the next pass on."""
        if wanted != self._listens:
            self._listens = wanted
            self._chosen.clear()
            for moe in self._moe:
                moe.on_route = self._chosen.append if wanted else None

    def read(self, seen: Seen) -> dict[str, Any]:
        """The fields of a `Piece` that computed arrays fill; experts are put by for `routed`."""
        fields: dict[str, Any] = {}
        if "experts" in seen:
            self._routed.append(seen["experts"])
        if "ids" in seen:
            ids: Any = seen["ids"].tolist()
            probabilities: Any = seen["probabilities"].tolist()
            fields["probability"] = probabilities[0]
            ranked = sorted(zip(probabilities[1:], ids[1:], strict=True), key=_likeliest_first)
            fields["alternatives"] = tuple(
                Alternative(token=token, text=self._text(token), probability=probability)
                for probability, token in ranked
            )
        return fields

    def routed(self, id: int) -> Routed | None:
        """The experts of all tokens since this was last asked; None: nothing was watched.

        They are counted where they are, so that a token costs nothing but its array.
        """
        if not self._routed:
            return None
        counts: Any = chosen_counts(mx.stack(self._routed), self._n_experts).tolist()
        n, self._routed = len(self._routed), []
        return Routed(id=id, tokens=n, counts=tuple(map(tuple, counts)))


def chosen_counts(chosen: mx.array, n_experts: int) -> mx.array:
    """How often each layer chose each expert. Shapes: (T, L, k) -> (L, E)."""
    return (chosen[..., None] == mx.arange(n_experts)).sum(axis=(0, 2))


def likeliest(logits: mx.array, token: mx.array) -> dict[str, mx.array]:
    """A token and the likeliest ones, in no order, with their shares of the model's softmax.

    Sampling does not enter: these are the probabilities at temperature 1 and without cuts.
    Shapes: (vocab,), (1,) -> ids (1 + n,), probabilities (1 + n,).
    """
    logits = logits.astype(mx.float32)
    n = min(ALTERNATIVES, logits.shape[0])
    top = mx.argpartition(logits, kth=-n)[-n:]
    ids = mx.concatenate([token.astype(top.dtype), top])
    return {"ids": ids, "probabilities": mx.exp(logits[ids] - mx.logsumexp(logits))}


def _last(chosen: deque[mx.array]) -> mx.array:
    """Each layer's choice for the last token of a pass. Shapes: L of (1, T, k) -> (L, k)."""
    rows = [one if one.shape[1] == 1 else one[:, -1:] for one in chosen]
    return mx.concatenate(rows, axis=1)[0]


def _likeliest_first(pair: tuple[float, int]) -> tuple[float, int]:
    return -pair[0], pair[1]


def _text_of(tokenizer: Tokenizer, token: int) -> str:
    """A token alone, as far as it can be shown; a model may have more ids than its tokenizer."""
    return tokenizer.pieces([token])[0] if token < tokenizer.vocab_size else f"<{token}>"
