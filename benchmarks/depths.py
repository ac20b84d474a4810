"""What a token takes behind ever longer texts without a window, where all their keys are read.

    LD_PRELOAD=…/libopenblas.so.0 python benchmarks/depths.py [--model NAME …]

`cache` is what a token reads of keys and values. `growth` is the time that a token took longer
than one row above, for each MB that it read more; `least` the same at the bandwidth of a copy on
this machine. Growth that stays as it is from row to row is the cache's bytes and no more: a cache
that is copied, or a mask of the text's square, would make it larger with depth. The text is random
keys and values, which cost the same as true ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import repeat

from speed import Run, as_row, head, label, run_of, run_parser
from synthetic import SHAPES

from mlx_mistral.bench import Case, memory_bandwidth, run_cases
from mlx_mistral.bench.ours import Ours
from mlx_mistral.bench.peer import MlxLm

MODELS, DEPTHS = ("mistral-demo", "mistral-150m"), (1024, 4096, 16384)
GEN_TOKENS = 32
COLUMNS = (
    "model", "depth", "cache MB", "ours ms", "mlx-lm ms", "ours growth", "mlx-lm growth", "least"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Depth:
    """A token behind so many others: milliseconds by program, and bytes of keys and values."""

    depth: int
    cache_bytes: int
    token_ms: tuple[float, ...]

    def growth(self, before: Depth) -> list[float]:
        """Microseconds for each MB more than at another depth, by program."""
        megabytes = (self.cache_bytes - before.cache_bytes) / 1e6
        pairs = zip(self.token_ms, before.token_ms, strict=True)
        return [1e3 * (a - b) / megabytes for a, b in pairs]


def depths(run: Run, name: str, bits: int | None, chosen: Sequence[int]) -> Iterator[Depth]:
    """This program and mlx-lm in turn at every depth."""
    folder, shape = run.model(name, bits), SHAPES[name]
    cases = [Case(gen_tokens=GEN_TOKENS, depth=depth) for depth in chosen]
    with closing(Ours(folder)) as ours, closing(MlxLm(folder)) as theirs:
        both = run_cases([ours, theirs], cases, trials=run.trials, drawn=True)
        pair_bytes = 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * ours.dtype.size
    for depth, *found in zip(chosen, *both, strict=True):
        yield Depth(
            depth=depth,
            cache_bytes=pair_bytes * (depth + GEN_TOKENS // 2),
            token_ms=tuple(1e3 / one.tps for one in found),
        )


def main() -> None:
    parser = run_parser(__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=SHAPES, help="only these")
    args = parser.parse_args()
    bandwidth = memory_bandwidth()
    print(f"{head()} {bandwidth.bytes_per_second / 1e9:.1f} GB/s, {bandwidth.source}.", end="\n\n")
    print(as_row(*COLUMNS), as_row(*repeat("---:", len(COLUMNS))), sep="\n")
    least = f"{1e12 / bandwidth.bytes_per_second:.0f} µs/MB"
    with run_of(args) as run:
        for bits in run.formats:
            for name in args.model or MODELS:
                before: Depth | None = None
                for one in depths(run, name, bits, DEPTHS):
                    growth = one.growth(before) if before else ()
                    grown = [f"{us:.0f} µs/MB" for us in growth] or ["", ""]
                    said = (f"{cell:.2f}" for cell in (one.cache_bytes / 1e6, *one.token_ms))
                    cells = (label(name, bits), str(one.depth), *said, *grown, least)
                    print(as_row(*cells), flush=True)
                    before = one


if __name__ == "__main__":
    main()
