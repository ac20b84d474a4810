"""This program beside mlx-lm, on the same random weights in the same process, in turn.

    LD_PRELOAD=…/libopenblas.so.0 python benchmarks/speed.py [--row NAME …] [--markdown]

Every row runs A B A B, greedy, on the same token ids, and says whether both wrote the same. What
is shown are ratios: above 1x this program is faster, or holds more memory. On Linux's CPU backend
absolute speeds mean little; with OpenBLAS preloaded float32 is bound by memory, as on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median

from launches import COPIES, HostTime, host_time, launches
from synthetic import SHAPES, write_model

from mlx_mistral.bench import Case, Comparison, Result, compare, machine_card, run_cases, versions
from mlx_mistral.bench.ours import Ours
from mlx_mistral.bench.peer import MlxLm

FORMATS = (None, 4)
DEMOS = ("mistral-demo", "mixtral-demo")
LARGE = ("mistral-150m", "mixtral-330m")
HOST_ROUNDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One comparison: of a row, on a model."""

    row: str
    model: str
    test: str
    ratio: float
    least: float
    most: float
    memory: float | None = None
    remark: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What rows share: where models lie, and how long to measure."""

    folder: Path
    trials: int
    formats: Sequence[int | None] = field(default=FORMATS)

    def model(self, name: str, bits: int | None) -> str:
        """A folder with the random model of that name, written when it is first asked for."""
        folder = self.folder / label(name, bits)
        if not (folder / "config.json").is_file():
            write_model(folder, SHAPES[name], bits=bits)
        return str(folder)

    def compare(
        self,
        row: str,
        names: Sequence[str],
        cases: Sequence[Case],
        *,
        drawn: bool = False,
    ) -> Iterator[Line]:
        """The cases on every model, unquantized and of 4 bits."""
        for bits in self.formats:
            for name in names:
                folder = self.model(name, bits)
                with ExitStack() as stack:
                    programs = [
                        stack.enter_context(closing(program(folder))) for program in (Ours, MlxLm)
                    ]
                    both = run_cases(programs, cases, trials=self.trials, drawn=drawn)
                    for mine, theirs in zip(*both, strict=True):
                        yield line_of(row, label(name, bits), compare(mine, theirs))


def decode_demo(run: Run) -> Iterator[Line]:
    """Models so small that the time is Python's and the launching of kernels."""
    yield from run.compare("decode-demo", DEMOS, [Case(gen_tokens=128)])


def decode_150m(run: Run) -> Iterator[Line]:
    """Models so large that the time is the reading of weights."""
    yield from run.compare("decode-150m", LARGE, [Case(gen_tokens=32)])


def depth_16k(run: Run) -> Iterator[Line]:
    """Behind 16k tokens with a window of 4096, which mlx-lm does not have: it sees all of them.

    The text is random keys and values, so both hold the same; what they write differs rightly.
    """
    names, cases = ("window-demo", "window-150m"), [Case(gen_tokens=32, depth=16384)]
    yield from run.compare("depth-16k", names, cases, drawn=True)


def window_flat(run: Run) -> Iterator[Line]:
    """This program alone: tokens/s at depth 32k over those at the depth of the window."""
    for bits in run.formats:
        with closing(Ours(run.model("window-150m", bits))) as program:
            cases = [Case(gen_tokens=32, depth=depth) for depth in (4096, 32768)]
            near, far = run_cases([program], cases, trials=run.trials, drawn=True)[0]
        yield _alone("window-flat", label("window-150m", bits), near, far)


def prefill(run: Run) -> Iterator[Line]:
    """Prompts of 2k and 8k tokens, without and with a window."""
    cases = [Case(prompt_tokens=2048), Case(prompt_tokens=8192)]
    yield from run.compare("prefill", [*DEMOS, *LARGE], cases)
    yield from run.compare("prefill", ("window-demo", "window-150m"), cases[1:])


def batch(run: Run) -> Iterator[Line]:
    """Eight texts at once, against mlx-lm's batches, then against one text alone."""
    names = [*DEMOS, *LARGE]
    yield from run.compare("batch", names, [Case(gen_tokens=32, batch=8)])
    for bits in run.formats:
        for name in names:
            yield _batch_against_one(run, name, bits)


def _batch_against_one(run: Run, name: str, bits: int | None) -> Line:
    cases = [Case(gen_tokens=32), Case(gen_tokens=32, batch=8)]
    with closing(Ours(run.model(name, bits))) as program:
        one, eight = run_cases([program], cases, trials=run.trials)[0]
    return _alone("batch", label(name, bits), one, eight)


def _alone(row: str, model: str, before: Result, after: Result) -> Line:
    """What this program does in one case over what it does in another."""
    ratios = [b / a for a, b in zip(before.trials_tps, after.trials_tps, strict=True)]
    return Line(
        row=row,
        model=model,
        test=f"{after.case.name} over {before.case.name}",
        ratio=median(ratios),
        least=min(ratios),
        most=max(ratios),
        memory=after.peak_memory_bytes / before.peak_memory_bytes,
        remark="ours alone",
    )


def host(run: Run) -> Iterator[Line]:
    """Processor time of the loop's thread for one step through 32 layers; less is better here."""
    for bits in run.formats:
        for name in ("mistral-32-layers", "mixtral-32-layers"):
            folder = run.model(name, bits)
            ours, theirs = Ours(folder), MlxLm(folder)
            rounds = [(host_time(ours), host_time(theirs)) for _ in range(1 + HOST_ROUNDS)][1:]
            ours.close()
            theirs.close()
            ratios = [a.host_ms / b.host_ms for a, b in rounds]
            yield Line(
                row="host-time",
                model=label(name, bits),
                test="build and submit a step",
                ratio=median(ratios),
                least=min(ratios),
                most=max(ratios),
                remark=f"ours {_times([a for a, _ in rounds])}; "
                f"mlx-lm {_times([b for _, b in rounds])}",
            )
            yield _launches(folder, name, bits)


def _launches(folder: str, name: str, bits: int | None) -> Line:
    layers = SHAPES[name].n_layers
    ours, theirs = launches(lambda: Ours(folder)), launches(lambda: MlxLm(folder))
    a, b = ours.total() / layers, theirs.total() / layers
    return Line(
        row="host-time",
        model=label(name, bits),
        test="launches a layer",
        ratio=a / b,
        least=a / b,
        most=a / b,
        remark=f"ours {a:.1f} ({_copies(ours)} copies a token), "
        f"mlx-lm {b:.1f} ({_copies(theirs)}); as on a GPU",
    )


def _copies(counted: Counter[str]) -> int:
    return sum(n for name, n in counted.items() if name in COPIES)


def _times(times: Sequence[HostTime]) -> str:
    build, submit, kernels, token = (
        median(getattr(one, name) for one in times)
        for name in ("build_ms", "submit_ms", "kernels_ms", "token_ms")
    )
    return (
        f"{build:.2f} ms to build, {submit:.2f} to submit, {kernels:.2f} in kernels, "
        f"{token:.2f} by the clock"
    )


ROWS: dict[str, Callable[[Run], Iterator[Line]]] = {
    "decode-demo": decode_demo,
    "decode-150m": decode_150m,
    "depth-16k": depth_16k,
    "window-flat": window_flat,
    "prefill": prefill,
    "batch": batch,
    "host-time": host,
}


def run_parser(description: str) -> argparse.ArgumentParser:
    """The options of every script that measures random models."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--trials", type=int, default=5, help="runs of each (default: 5)")
    parser.add_argument("--bits", type=int, action="append", help="4, or 0 for float32 (both)")
    parser.add_argument("--models", type=Path, help="keep the random models in this folder")
    return parser


@contextmanager
def run_of(args: argparse.Namespace) -> Iterator[Run]:
    """What those options ask for, while the random models are there."""
    formats = FORMATS if args.bits is None else tuple(bits or None for bits in args.bits)
    with tempfile.TemporaryDirectory() as temporary:
        yield Run(folder=args.models or Path(temporary), trials=args.trials, formats=formats)


def table_parser(description: str, rows: Iterable[str]) -> argparse.ArgumentParser:
    """The options of every script that prints such a table."""
    parser = run_parser(description)
    parser.add_argument("--row", action="append", choices=rows, help="only these rows")
    parser.add_argument("--markdown", action="store_true", help="head and table for a page")
    return parser


@contextmanager
def table(args: argparse.Namespace) -> Iterator[Run]:
    """Prints the head; lines follow while the random models are there."""
    if args.markdown:
        print(head(), end="\n\n")
    print(as_row("row", "model", "test", "ratio", "least to most", "memory", "remark"))
    print("| --- | --- | --- | ---: | ---: | ---: | --- |")
    with run_of(args) as run:
        yield run


def main() -> None:
    args = table_parser(__doc__.partition("\n")[0], ROWS).parse_args()
    with table(args) as run:
        worst: dict[str, float] = {}
        for name in args.row or ROWS:
            for line in ROWS[name](run):
                print(as_cells(line), flush=True)
                if line.memory is not None and not line.remark.startswith("ours alone"):
                    worst[name] = max(worst.get(name, 0.0), line.memory)
    for name, memory in worst.items():
        print(as_row("peak memory", "all", name, f"{memory:.2f}x", "", "", "the most of the row"))


def line_of(row: str, model: str, found: Comparison) -> Line:
    place = found.first_difference
    return Line(
        row=row,
        model=model,
        test=found.test,
        ratio=found.tps,
        least=found.tps_min,
        most=found.tps_max,
        memory=found.peak_memory,
        remark="same text" if place is None else f"same text to token {place}",
    )


def as_cells(line: Line) -> str:
    memory = "" if line.memory is None else f"{line.memory:.2f}x"
    spread = f"{line.least:.2f} to {line.most:.2f}"
    return as_row(
        line.row, line.model, line.test, f"{line.ratio:.2f}x", spread, memory, line.remark
    )


def as_row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def head() -> str:
    """Machine, versions and date, without which figures mean nothing."""
    card = machine_card()
    said = [f"{name} {version}" for name, version in versions("mlx-lm").items() if version]
    settings = [f"{name}={value}" for name, value in card["environment"].items()]
    return (
        f"{date.today().isoformat()}, {card['chip']} with {card['cores']} cores, "
        f"{card['system']}, MLX on {card['backend']}; {', '.join([*said, *settings])}. "
        f"`{' '.join(['python', *sys.argv])}`"
    )


def label(name: str, bits: int | None) -> str:
    return f"{name} {bits}-bit" if bits else name


if __name__ == "__main__":
    main()
