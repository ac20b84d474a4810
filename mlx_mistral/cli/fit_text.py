"""A memory plan for people: the sum, whether it fits, and what would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_mistral.config import ModelConfig
from mlx_mistral.config.convert_command import convert_command
from mlx_mistral.config.sizes import size_text as bytes_text

if TYPE_CHECKING:
    from mlx_mistral.memory import Chip, DecodeSpeed, MemoryPlan

LABEL_WIDTH, SIZE_WIDTH, BAR_CELLS = 12, 11, 40
GENERIC_NAME = "DEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A plan and all that is said about it."""

    model: str
    config: ModelConfig
    dtype: str
    """Of activations."""
    is_context_given: bool
    budget_source: str
    free_bytes: int | None
    plan: MemoryPlan
    max_context: int
    """The longest context that fits; 0 where none does."""
    conversion: tuple[str, str] | None
    """A flag and its value with which `convert` makes a model that fits as asked; None: none."""
    contexts: tuple[tuple[int | None, int], ...] = ()
    """Bits of a cache (None: as wide as activations), and the longest context that fits so."""
    stepped_down: str | None = None
    """How it would run where it does not fit; None: not at all."""
    kv_bits: int | None = None
    """Of the planned cache; None: as wide as activations."""
    fitting_kv_bits: int | None = None
    """Of the widest quantized cache with which it would fit as asked; None: of none."""
    chip: Chip | None = None
    """None where it is not one that a speed can be told of."""
    speed_at_start: DecodeSpeed | None = None
    """Before anything is read; None where no expectation can be given."""
    speed_at_end: DecodeSpeed | None = None
    """At the planned context."""

    def advice(self) -> list[str]:
        """What to do where it does not fit, or just now would not."""
        plan = self.plan
        if plan.fits:
            if self.free_bytes is not None and plan.total_bytes > self.free_bytes:
                return [
                    f"only {bytes_text(self.free_bytes)} are free now: close other programs first"
                ]
            return []
        lines = [self.stepped_down] if self.stepped_down else []
        if self.max_context:
            lines.append(f"a smaller context fits: --context {self.max_context}")
        if self.fitting_kv_bits is not None:
            lines.append(f"a quantized cache fits: --kv-bits {self.fitting_kv_bits}")
        lines.append(self._fewer_bits())
        lines.append(f"a larger budget: --memory {plan.total_bytes}")
        return lines

    def _fewer_bits(self) -> str:
        if self.conversion is not None:
            return f"fewer bits fit: {convert_command(self.model, *self.conversion)}"
        if self.config.quantization is not None:
            return (
                "fewer bits, from the original weights: mlx-mistral convert ORIGINAL "
                f"{GENERIC_NAME} --fit {self.plan.budget_bytes} --context {self.plan.context}"
            )
        return "no number of bits makes it fit at this context"


def to_lines(report: Report) -> list[str]:
    """One subject a line: the sum first, then what follows from it."""
    plan = report.plan
    lines = [
        f"{report.model} at {plan.context:,} tokens of context{_why(report)}, {report.dtype}",
        "",
        _row("weights", plan.weights_bytes, "once loaded"),
        _row("cache", plan.cache_bytes, _cache(report)),
        _row("workspace", plan.workspace_bytes, "while a prompt is read or a chat goes on"),
        _row("total", plan.total_bytes, "what MLX allocates; Python takes 0.1 to 0.15 GB more"),
        _row("budget", plan.budget_bytes, _budget(report)),
        "",
        _label("", f"{bar(plan)}  # weights  = cache  - workspace"),
        "",
        _label("fits", _verdict(plan)),
        _label("context", _longest(report)),
        *([_label("", _by_bits(report))] if len(report.contexts) > 1 else []),
        *(_label("" if n else "speed", text) for n, text in enumerate(_speed(report))),
    ]
    return lines + [_label("advice", text) for text in report.advice()]


def bar(plan: MemoryPlan) -> str:
    """`[####==--....|` up to the budget where it fits; `[####==|--` past it where it does not."""
    scale = max(plan.total_bytes, plan.budget_bytes, 1)
    cells, reached = "", 0
    parts = (("#", plan.weights_bytes), ("=", plan.cache_bytes), ("-", plan.workspace_bytes))
    for mark, n_bytes in parts:
        reached += n_bytes
        cells += mark * (round(BAR_CELLS * reached / scale) - len(cells))
    limit = round(BAR_CELLS * plan.budget_bytes / scale)
    cells = f"{cells:.<{BAR_CELLS}}"
    return f"[{cells[:limit]}|{cells[limit:]}"


def _why(report: Report) -> str:
    if report.is_context_given:
        return ""
    longest = report.config.max_context
    if longest is None:
        return " (the model does not say)"
    return " (the model's own)" if longest == report.plan.context else f" (of {longest:,})"


def _cache(report: Report) -> str:
    from mlx_mistral.memory.cache import stored_bytes

    config = report.config
    size = {"float32": 4}.get(report.dtype, 2)
    per_token = config.n_layers * stored_bytes(config, 1, size, report.kv_bits)
    width = f" in {report.kv_bits} bits" if report.kv_bits else ""
    text = f"{bytes_text(per_token)} a token{width}"
    if config.is_windowed:
        return f"{text}, but windows bound it: {config.sliding_window:,} tokens at most"
    windowed = sum(window is not None for window in config.windows)
    if windowed:
        return f"{text}; windows bound it in {windowed} of {config.n_layers} layers"
    return f"{text}; no window bounds it"


def _budget(report: Report) -> str:
    if report.free_bytes is None:
        return report.budget_source
    return f"{report.budget_source}; {bytes_text(report.free_bytes)} free now"


def _verdict(plan: MemoryPlan) -> str:
    if plan.fits:
        return f"yes, with {bytes_text(plan.budget_bytes - plan.total_bytes)} to spare"
    return f"no, {bytes_text(plan.total_bytes - plan.budget_bytes)} too much"


def _longest(report: Report) -> str:
    longest = report.max_context
    if not longest:
        return "not even one token fits"
    if longest == report.config.max_context:
        return f"up to {longest:,} tokens fit, all that the model was made for"
    return f"up to {longest:,} tokens fit"


def _by_bits(report: Report) -> str:
    """`16-bit cache 4,096, 8-bit 7,680, 4-bit 12,288`."""
    width = {"float32": 32}.get(report.dtype, 16)
    parts = [f"{bits or width}-bit {n:,}" for bits, n in report.contexts]
    return f"by the cache's width: {', '.join(parts)}"


def _speed(report: Report) -> list[str]:
    start, end = report.speed_at_start, report.speed_at_end
    if report.chip is None:
        return ['no expectation for this machine; --chip "M2 Max" --memory 32GB plans for a Mac']
    if start is None or end is None:
        return ["no expectation: so small a model is not bound by the memory's speed"]
    return [
        f"about {_tps(start.tps)} tokens a second to be expected, {_tps(end.tps)} at "
        f"{report.plan.context:,} tokens",
        f"= {start.chip}, {start.share:.0%} of it reached in published runs,",
        f"/ {bytes_text(start.weights_bytes)} of weights read a token, and up to "
        f"{bytes_text(end.cache_bytes)} of cache",
    ]


def _tps(tps: float) -> str:
    return f"{tps:.0f}" if tps >= 20 else f"{tps:.1f}"


def _row(label: str, n_bytes: int, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{bytes_text(n_bytes):>{SIZE_WIDTH}}  {text}"


def _label(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"
