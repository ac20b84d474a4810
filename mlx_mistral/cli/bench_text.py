"""What was measured, as a JSON card and as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlx_mistral.config.sizes import size_text as bytes_text

if TYPE_CHECKING:
    from mlx_mistral.bench import Comparison, Result
    from mlx_mistral.bench.chunks import TriedChunk
    from mlx_mistral.bench.sweep import Tried

LABEL_WIDTH = 10
HEADINGS = ("test", "tokens/s", "first token", "peak memory", "bytes a token", "of bandwidth")
AGAINST = ("ours/theirs", "least to most", "memory", "same text")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A card that two people can compare."""

    model: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str | None]
    method: dict[str, Any]
    results: Sequence[Result]
    against: str | None
    against_results: Sequence[Result]

    def to_json(self) -> dict[str, Any]:
        """The figures by their promised names."""
        card: dict[str, Any] = {
            "model": self.model,
            "machine": self.machine,
            "versions": self.versions,
            "method": self.method,
            "results": [one.to_json() for one in self.results],
        }
        if self.against is not None:
            card["against"] = {
                "name": self.against,
                "results": [one.to_json() for one in self.against_results],
            }
            card["ratios"] = [one.to_json() for one in self.comparisons()]
        return card

    def comparisons(self) -> list[Comparison]:
        from mlx_mistral.bench import compare

        return [
            compare(mine, other)
            for mine, other in zip(self.results, self.against_results, strict=bool(self.against))
        ]

    def to_lines(self) -> list[str]:
        heads = [*self._heads(), ""]
        if self.against is None:
            return [*heads, *table([HEADINGS, *map(_row, self.results)])]
        ours = [[*_row(one), ""] for one in self.results]
        theirs = [[*_row(one), self.against] for one in self.against_results]
        both = [row for pair in zip(ours, theirs, strict=True) for row in pair]
        ratios = [_ratio_row(one) for one in self.comparisons()]
        return [
            *heads,
            *table([(*HEADINGS, "by"), *both]),
            "",
            *table([("test", *AGAINST), *ratios]),
        ]

    def remarks(self) -> Iterator[str]:
        """What a reader of the ratios has to know."""
        for one in self.comparisons():
            if one.first_difference is not None:
                yield (
                    f"{one.test}: the outputs differ from token {one.first_difference} on, so "
                    "the two did not do the same work"
                )

    def _heads(self) -> Iterator[str]:
        model, machine = self.model, self.machine
        form = model["quantization"] or "not quantized"
        yield _label("model", f"{model['name']}, {model['parameters'] / 1e6:,.1f}M parameters, "
                     f"{bytes_text(model['weight_bytes'])}, {form}; {model['dtype']}")  # fmt: skip
        cores = f"{machine['gpu_cores']} GPU cores" if machine["gpu_cores"] else None
        facts = (machine[name] for name in ("backend", "os_version", "power", "thermal"))
        parts = [machine["chip"], cores, *facts]
        yield _label("machine", ", ".join(part for part in parts if part))
        gigabytes = machine["bandwidth"] / 1e9
        yield _label("bandwidth", f"{gigabytes:,.1f} GB/s ({machine['bandwidth_source']})")
        said = [f"{name} {version}" for name, version in self.versions.items() if version]
        yield _label("versions", ", ".join(said))
        yield _label("method", f"median of {self.method['trials']} trials"
                     + (", in turn with " + self.against if self.against else ""))  # fmt: skip


def chunk_lines(tried: Sequence[TriedChunk], best: int) -> list[str]:
    """All sizes of a prompt's chunks, and the best; nothing where none was tried."""
    if not tried:
        return []
    rows = [
        (str(one.tokens), _speed(one.tps, one.tps_stdev), bytes_text(one.peak_memory_bytes))
        for one in tried
    ]
    return [*table([("chunk", "tokens/s", "peak memory"), *rows]), "", f"chunks: {best} tokens", ""]


def sweep_lines(tried: Sequence[Tried], chosen: Sequence[Tried]) -> list[str]:
    """All choices, then for each test the best one."""
    from mlx_mistral.bench.sweep import describe

    rows = [(one.test, _speed(one.tps, one.tps_stdev), describe(one.settings)) for one in tried]
    lines = [*table([("test", "tokens/s", "under"), *rows]), ""]
    for one in chosen:
        advice = describe(one.settings) if one.settings else "nothing is ahead by more than noise"
        lines.append(f"{one.test}: {advice}")
    return lines


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its head, and all columns but the first lie right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = "|".join(
        f":{'-' * (width + 1)}" if n == 0 else f"{'-' * (width + 1)}:"
        for n, width in enumerate(widths)
    )
    lines = [
        " | ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return [f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])]


def _row(result: Result) -> list[str]:
    fraction = result.bandwidth_fraction
    return [
        result.case.name,
        _speed(result.tps, result.tps_stdev),
        f"{result.ttft_ms:,.1f} ms",
        bytes_text(result.peak_memory_bytes),
        bytes_text(result.work.bytes_per_token) if result.work else "",
        f"{fraction:.1%}" if fraction is not None else "",
    ]


def _ratio_row(one: Comparison) -> list[str]:
    same = "yes" if one.first_difference is None else f"to token {one.first_difference}"
    return [
        one.test,
        f"{one.tps:.2f}x",
        f"{one.tps_min:.2f} to {one.tps_max:.2f}",
        f"{one.peak_memory:.2f}x",
        same,
    ]


def _speed(tps: float, stdev: float) -> str:
    return f"{tps:,.2f} ± {stdev:,.2f}"


def _label(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"
