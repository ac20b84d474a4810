"""Logits become figures: how surprised a model is, and how far it is from another one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import mlx.core as mx
import numpy as np

from mlx_mistral.errors import EvaluationError

CHUNK_ELEMENTS = 1 << 23
"""Logits worked on at once: 32 MiB in float32, and a handful of such arrays."""
SMALL = 0.5
"""Differences of log probabilities below it lose digits unless `expm1` takes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Sums over tokens, in float64; sums of parts add up to the whole's.

    Standard errors take tokens as independent draws, which a text's tokens are only nearly.
    """

    tokens: int = 0
    nll_sum: float = 0.0
    """Negative log likelihoods, nats."""
    nll_squares: float = 0.0
    compared: int = 0
    """Tokens that were also compared with a reference: all or none, unless parts differ."""
    kl_sum: float = 0.0
    """KL(reference || model), nats."""
    kl_squares: float = 0.0
    agreements: int = 0

    def add(self, other: Scores) -> Scores:
        """The scores of both texts together."""
        names = [field.name for field in fields(self)]
        return Scores(**{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def nll(self) -> float:
        """The mean negative log likelihood of a token, nats. Raises: EvaluationError: no token."""
        if not self.tokens:
            raise EvaluationError("no token was evaluated; give a text")
        return self.nll_sum / self.tokens

    @property
    def nll_error(self) -> float | None:
        """The standard error of that mean; None for fewer than two tokens."""
        return _standard_error(self.tokens, self.nll_sum, self.nll_squares)

    @property
    def perplexity(self) -> float:
        """exp(nll): the number of equally likely tokens that would surprise as much."""
        try:
            return math.exp(self.nll)
        except OverflowError:
            return math.inf

    @property
    def perplexity_error(self) -> float | None:
        """Its standard error, to first order."""
        error = self.nll_error
        return None if error is None else self.perplexity * error

    @property
    def kl(self) -> float | None:
        """The mean KL(reference || model) of a token, nats; None without a reference."""
        return self.kl_sum / self.compared if self.compared else None

    @property
    def kl_error(self) -> float | None:
        """The standard error of that mean; None for fewer than two tokens."""
        return _standard_error(self.compared, self.kl_sum, self.kl_squares)

    @property
    def top1_agreement(self) -> float | None:
        """The share of tokens where both find the same one likeliest; None without a reference.

        Of equally likely tokens the one with the lowest id counts.
        """
        return self.agreements / self.compared if self.compared else None


def score(logits: mx.array, targets: mx.array, reference: mx.array | None = None) -> Scores:
    """How likely the targets are, and how far the logits are from the reference's.

    Logits are worked on in float32, some rows at a time; sums are in float64.
    Shapes: logits (..., vocab), targets (...) ids, reference (..., vocab).
    Raises: EvaluationError: a row has NaN, infinity or nothing but -infinity; a target is not
        in the vocabulary, or the two vocabularies differ.
    """
    vocab_size = logits.shape[-1]
    if reference is not None and reference.shape != logits.shape:
        raise EvaluationError(
            f"logits of shape {list(logits.shape)} cannot be compared with the reference's "
            f"{list(reference.shape)}; take two models of one vocabulary"
        )
    ids = np.array(targets).reshape(-1).astype(np.int64)
    if ids.size and not 0 <= ids.min() <= ids.max() < vocab_size:
        raise EvaluationError(
            f"token ids reach from {ids.min()} to {ids.max()}, the vocabulary has {vocab_size}; "
            "the tokenizer does not belong to this model"
        )
    rows = logits.reshape(-1, vocab_size)
    others = None if reference is None else reference.reshape(-1, vocab_size)
    total = Scores()
    for part in row_chunks(len(ids), vocab_size):
        other = None if others is None else others[part]
        total = total.add(_score_rows(rows[part], mx.array(ids[part]), other))
    return total


def row_chunks(n_rows: int, vocab_size: int) -> Iterator[slice]:
    """Slices of as many rows of logits as are worked on at once."""
    step = max(1, CHUNK_ELEMENTS // vocab_size)
    return (slice(start, min(start + step, n_rows)) for start in range(0, n_rows, step))


def _score_rows(logits: mx.array, targets: mx.array, reference: mx.array | None) -> Scores:
    """Shapes: (N, vocab), (N,), (N, vocab)."""
    log_p = _log_probabilities(logits, "the model")
    nll = _sums(-mx.take_along_axis(log_p, targets[:, None], axis=-1))
    scored = Scores(tokens=len(targets), nll_sum=nll[0], nll_squares=nll[1])
    if reference is None:
        return scored
    log_q = _log_probabilities(reference, "the reference")
    kl = _sums(_kl_divergence(log_q, log_p))
    same = mx.equal(mx.argmax(logits, axis=-1), mx.argmax(reference, axis=-1))
    compared = Scores(
        compared=len(targets),
        kl_sum=kl[0],
        kl_squares=kl[1],
        agreements=int(np.array(same).sum()),
    )
    return scored.add(compared)


def _log_probabilities(logits: mx.array, whose: str) -> mx.array:
    """Shapes: (N, vocab) -> (N, vocab) float32."""
    logits = logits.astype(mx.float32)
    normalizer = mx.logsumexp(logits, axis=-1, keepdims=True)
    if not mx.isfinite(normalizer).all().item():
        raise EvaluationError(
            f"the logits of {whose} hold NaN or infinity; its weights are broken, or too large "
            "for this dtype: try --dtype float32"
        )
    return logits - normalizer


def _kl_divergence(log_q: mx.array, log_p: mx.array) -> mx.array:
    """KL(q || p) as the sum of q (e^d - 1 - d) with d = log p - log q.

    The terms that this adds to the textbook sum of -q d cancel, as p and q both sum to 1. No
    term is below zero, so that rounding of the two normalizers cannot hide a small divergence.
    Shapes: (N, vocab) twice -> (N,).
    """
    p, q = mx.exp(log_p), mx.exp(log_q)
    d = log_p - log_q
    near = q * (mx.expm1(d) - d)
    terms = mx.where(mx.abs(d) < SMALL, near, p - q - q * d)
    # Where q is zero, q d is too, although d is infinite or not a number.
    return mx.maximum(mx.where(q > 0, terms, p), 0).sum(axis=-1)


def _sums(values: mx.array) -> tuple[float, float]:
    """The sum of float32 values and of their squares, in float64."""
    exact = np.array(values).astype(np.float64)
    return float(exact.sum()), float((exact * exact).sum())


def _standard_error(n: int, total: float, squares: float) -> float | None:
    if n < 2:
        return None
    if not math.isfinite(squares):
        return math.inf
    return math.sqrt(max(0.0, squares - total * total / n) / (n - 1) / n)
