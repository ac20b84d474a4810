"""A finished conversion as lines for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .progress_bar import clock_time

if TYPE_CHECKING:
    from mlx_mistral.convert import Comparison, Conversion


def to_lines(source: str, done: Conversion, comparison: Comparison | None) -> list[str]:
    plan = done.plan
    lines = [f"{source} -> {done.dest}", _row("recipe", plan.recipe)]
    if plan.why:
        lines.append(_row("why", plan.why))
    before = 8 * done.source_bytes / done.parameters
    lines += [
        _row("size", f"{_size(done.source_bytes)} -> {_size(done.weight_bytes)}"),
        _row("bits a weight", f"{before:.2f} -> {done.bits_per_weight:.2f}"),
        _row("tensors", f"{done.tensors}"),
        _row("time", f"{clock_time(done.seconds)}, {_speed(done)} read"),
        _row("peak memory", f"{_size(done.peak_memory_bytes)} (the whole process)"),
        "  where the bits went",
    ]
    bits = plan.bits_by_kind()
    for kind, n_bytes in done.bytes_by_kind.items():
        share = f"{n_bytes / done.weight_bytes:4.0%}"
        used = ", ".join(map(str, bits.get(kind, [])))
        lines.append(f"    {kind:<14}{_size(n_bytes):>10}  {share}  {used and used + ' bits'}")
    return lines + (comparison_lines(comparison) if comparison else [])


def comparison_lines(comparison: Comparison) -> list[str]:
    before, after = comparison.source, comparison.result
    return [
        f"  on {after.tokens:,} tokens, {comparison.method}",
        _row("  perplexity", f"{before.perplexity:.4f} -> {after.perplexity:.4f}"),
        _row("  KL divergence", f"{after.kl:.5f} nats a token"),
        _row("  same top token", f"{after.top1_agreement:.2%}"),
    ]


def _row(label: str, value: str) -> str:
    return f"  {label:<18}{value}"


def _speed(done: Conversion) -> str:
    return f"{done.source_bytes / max(done.seconds, 1e-9) / 1e9:.2f} GB/s"


def _size(n_bytes: int) -> str:
    unit, name = (1e9, "GB") if n_bytes >= 1e9 else (1e6, "MB")
    return f"{n_bytes / unit:.2f} {name}"
