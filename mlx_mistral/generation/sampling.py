"""From logits to a token: penalty, temperature, top-k, top-p, min-p."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Hashable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict

import mlx.core as mx

from mlx_mistral.errors import MlxMistralError


class SamplingOptions(TypedDict, total=False):
    """The fields of `Sampling`, as keyword arguments."""

    temp: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float | None
    seed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The defaults take the likeliest one.

    temp: the temperature; 0 is greedy, 1 is the model's own distribution.
    top_k: the k likeliest tokens alone; 0: all.
    top_p: the fewest tokens that together have this probability.
    min_p: tokens at least this likely, relative to the likeliest.
    repetition_penalty: divides the logit of every token that the text already holds.
    seed: makes draws repeatable; None takes one from the system.
    Raises: MlxMistralError: a value outside its range.
    """

    temp: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        penalty = 1.0 if self.repetition_penalty is None else self.repetition_penalty
        for name, value, fits, range_ in (
            ("temp", self.temp, self.temp >= 0, "0 or more"),
            ("top-k", self.top_k, self.top_k >= 0, "0 or more"),
            ("top-p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("min-p", self.min_p, 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition penalty", penalty, penalty > 0, "above 0"),
            ("seed", self.seed or 0, 0 <= (self.seed or 0) < 1 << 64, "between 0 and 2^64 - 1"),
        ):
            if not fits or not math.isfinite(value):
                raise MlxMistralError(f"{name} is {value}; {range_} is expected")


class Draws(Protocol):
    """What draws a token for each of B texts, as `Sampler` does."""

    @property
    def state(self) -> list[mx.array]: ...
    @state.setter
    def state(self, arrays: list[mx.array]) -> None: ...
    @property
    def way(self) -> Hashable: ...
    def __call__(self, logits: mx.array) -> mx.array: ...


class Sampler:
    """Draws tokens for B texts, without waiting for the device.

    Each text has a random stream of its own, so its draws do not depend on what else is drawn.
    Temperature comes before the cuts, as in mistral-inference and transformers.
    """

    def __init__(self, sampling: Sampling, vocab_size: int, texts: Sequence[Sequence[int]]) -> None:
        self._sampling = sampling
        seed = secrets.randbits(63) if sampling.seed is None else sampling.seed
        self._keys = _keys([stream_seed(seed, row) for row in range(len(texts))])  # (B, 2)
        self._seen: mx.array | None = None
        if sampling.repetition_penalty not in (None, 1.0):
            seen = mx.zeros((len(texts), vocab_size), dtype=mx.bool_)
            for row, text in enumerate(texts):
                seen[row, mx.array(list(text))] = True
            self._seen = seen

    @classmethod
    def gather(cls, rows: Sequence[tuple[Sampler, int]]) -> Sampler:
        """Goes on for rows of samplers that draw alike, whatever their seeds."""
        first = rows[0][0]
        gathered = copy(first)
        gathered._keys = mx.stack([one._keys[row] for one, row in rows])
        if first._seen is not None:
            seen = [one._seen[row] for one, row in rows if one._seen is not None]
            gathered._seen = mx.stack(seen)
        return gathered

    @property
    def sampling(self) -> Sampling:
        return self._sampling

    @property
    def way(self) -> Hashable:
        """What a draw depends on beside the state and how many texts there are."""
        return replace(self._sampling, seed=None)

    @property
    def state(self) -> list[mx.array]:
        """The arrays that a draw changes; a step that is traced hands them on."""
        keys = [self._keys] if self._sampling.temp else []
        return keys if self._seen is None else [*keys, self._seen]

    @state.setter
    def state(self, arrays: list[mx.array]) -> None:
        if self._sampling.temp:
            self._keys = arrays[0]
        if self._seen is not None:
            self._seen = arrays[-1]

    def __call__(self, logits: mx.array) -> mx.array:
        """Shapes: (B, vocab) -> (B,) ints."""
        logits = self._penalize(logits)
        token = self._draw(logits)
        if self._seen is not None:
            self._seen = mx.put_along_axis(self._seen, token[:, None], mx.array(True), axis=-1)
        return token

    def _penalize(self, logits: mx.array) -> mx.array:
        """Source: arXiv:1909.05858, section 4.1, for logits of either sign."""
        penalty = self._sampling.repetition_penalty
        if self._seen is None or penalty is None:
            return logits
        lower = mx.where(logits > 0, logits / penalty, logits * penalty)
        return mx.where(self._seen, lower, logits)

    def _draw(self, logits: mx.array) -> mx.array:
        s = self._sampling
        if s.temp == 0:
            return mx.argmax(logits, axis=-1)
        logits = logits.astype(mx.float32) / s.temp
        noise = self._noise(logits.shape[-1])
        if not s.top_k and s.top_p == 1.0 and not s.min_p:
            return mx.argmax(logits + noise, axis=-1)
        order = mx.argsort(-logits, axis=-1)
        logits = keep_likeliest(
            mx.take_along_axis(logits, order, axis=-1), s.top_k, s.top_p, s.min_p
        )
        rank = mx.argmax(logits + noise, axis=-1)
        return mx.take_along_axis(order, rank[:, None], axis=-1)[:, 0]

    def _noise(self, n: int) -> mx.array:
        """Gumbel noise, each row from its own stream: the largest sum is a draw. -> (B, n)."""
        if self._keys.shape[0] == 1:
            rest, key = mx.random.split(self._keys[0])
            self._keys = rest[None]
            return mx.random.gumbel((1, n), key=key)
        pairs = mx.vmap(mx.random.split)(self._keys)  # (B, 2, 2)
        self._keys = pairs[:, 0]
        noise: mx.array = mx.vmap(lambda key: mx.random.gumbel((n,), key=key))(pairs[:, 1])
        return noise


def stream_seed(seed: int, index: int) -> int:
    """The seed of the text of this index among those drawn with one seed.

    That of the first is the seed itself, and none depends on how many there are.
    """
    if index == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed} {index}".encode(), digest_size=8).digest())


def _keys(seeds: Sequence[int]) -> mx.array:
    """As `mx.random.key` makes them. Shapes: -> (B, 2) uint32."""
    return mx.array([[seed >> 32, seed & 0xFFFFFFFF] for seed in seeds], dtype=mx.uint32)


def keep_likeliest(logits: mx.array, top_k: int, top_p: float, min_p: float) -> mx.array:
    """Sets what the cuts exclude to -inf; the likeliest token always stays.

    Shapes: (B, vocab) logits, likeliest first -> the same.
    """
    ranks = mx.arange(logits.shape[-1])
    if top_k:
        logits = mx.where(ranks < top_k, logits, -mx.inf)
    probabilities = mx.softmax(logits, axis=-1)
    before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = (before < top_p) & (probabilities >= min_p * probabilities[:, :1])
    return mx.where(kept | (ranks == 0), logits, -mx.inf)
