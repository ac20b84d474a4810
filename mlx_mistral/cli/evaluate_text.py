"""What an evaluation found, as JSON and as lines."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_mistral.evaluation import Scores

LABEL_WIDTH = 18
MOST_DECIMALS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an evaluation found, and how."""

    model: str
    reference: str | None
    context: int
    stride: int
    method: str
    scores: Scores
    n_bytes: int
    seconds: float

    @property
    def bits_per_byte(self) -> float:
        """Comparable between tokenizers, as perplexity is not."""
        return self.scores.nll_sum / math.log(2) / self.n_bytes if self.n_bytes else math.inf

    @property
    def tps(self) -> float:
        return self.scores.tokens / self.seconds

    def to_json(self) -> dict[str, Any]:
        """The figures by their promised names; null for what is infinite or was not asked for."""
        scores = self.scores
        figures = {
            "perplexity": scores.perplexity,
            "perplexity_error": scores.perplexity_error,
            "nll": scores.nll,
            "bits_per_byte": self.bits_per_byte,
            "kl": scores.kl,
            "kl_error": scores.kl_error,
            "top1_agreement": scores.top1_agreement,
            "seconds": self.seconds,
            "tps": self.tps,
        }
        return {
            "model": self.model,
            "reference": self.reference,
            "method": self.method,
            "context": self.context,
            "stride": self.stride,
            "tokens": scores.tokens,
            "bytes": self.n_bytes,
        } | {name: _finite(figure) for name, figure in figures.items()}

    def to_lines(self) -> list[str]:
        scores = self.scores
        lines = [
            _row("tokens", f"{scores.tokens:,}"),
            _row("method", self.method),
            _row("perplexity", _with_error(scores.perplexity, scores.perplexity_error)),
            _row("bits per byte", f"{self.bits_per_byte:.4f}"),
        ]
        if scores.kl is None or scores.top1_agreement is None:
            return lines
        return [
            *lines,
            _row("KL divergence", f"{_with_error(scores.kl, scores.kl_error)} nats a token"),
            _row("top-1 agreement", f"{scores.top1_agreement:.2%}"),
            _row("reference", self.reference or ""),
        ]


def _row(label: str, value: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{value}"


def _with_error(value: float, error: float | None) -> str:
    """Both to the second digit of the error, since the rest is noise."""
    if not error or not math.isfinite(value + error):
        return f"{value:.6g}"
    decimals = min(MOST_DECIMALS, max(0, 1 - math.floor(math.log10(error))))
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
