"""Where the time of one token goes, in this program and in mlx-lm, on the same random weights.

    OPENBLAS_NUM_THREADS=1 LD_PRELOAD=…/libopenblas.so.0 python benchmarks/token_time.py

Milliseconds for each token, medians of runs in turn:

    token      by the clock
    products   the weights that a token needs, each multiplied by one row and nothing else, which no
               program can leave out
    writes     a key and a value of every layer stored in the program's own cache, and nothing else
    others     what all other kernels take: norms, rotation, attention, activations, sampling
    build      Python and replay, until the step is handed over
    submit     handing it over: MLX encodes every kernel

On the CPU, MLX computes on a thread of its own: the first kernels' times are that thread's, and
build and submit are the loop's, meanwhile. With more threads of BLAS than one the two add up to
more than the clock shows. Launches are those of a GPU; `--fused` also makes this program's steps
fuse element-wise kernels here, as on a GPU, for which MLX calls a C++ compiler once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from launches import HostTime, fused_on_cpu, host_time, launches
from speed import LARGE, Run, as_row, head, label, run_of, run_parser
from synthetic import SHAPES, Shape

from mlx_mistral.bench.ours import Ours
from mlx_mistral.bench.peer import MlxLm
from mlx_mistral.model import ExpertLinear, Model, QuantizedExpertLinear

PASSES, SKIPPED = 24, 4
COLUMNS = (
    "model", "program", "token", "products", "writes", "others", "build", "submit",
    "launches a layer",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenTime:
    """Milliseconds for each token of one program."""

    program: str
    token: float
    kernels: float
    products: float
    writes: float
    build: float
    submit: float
    launches_per_layer: float

    @property
    def others(self) -> float:
        """Kernels that are neither products with weights nor writes."""
        return self.kernels - self.products - self.writes

    @property
    def host(self) -> float:
        return self.build + self.submit


def token_times(run: Run, name: str, bits: int | None) -> Iterator[TokenTime]:
    """This program's, then mlx-lm's."""
    folder, shape = run.model(name, bits), SHAPES[name]
    counted = [launches(lambda p=p: p(folder)).total() / shape.n_layers for p in (Ours, MlxLm)]
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(closing(p(folder))) for p in (Ours, MlxLm))
        caches = (ours._model.make_cache(), theirs._caches.make_prompt_cache(theirs._model))
        hosts: list[list[HostTime]] = [[], []]
        alone: list[float] = []
        writes: list[list[float]] = [[], []]
        for _ in range(1 + run.trials):
            for i, program in enumerate((ours, theirs)):
                hosts[i].append(host_time(program))
                writes[i].append(kernel_ms(cache_writes(caches[i], shape)))
            alone.append(kernel_ms(products(ours._model, shape)))
        for i, program in enumerate((ours, theirs)):
            yield TokenTime(
                program=program.name,
                token=median(one.token_ms for one in hosts[i][1:]),
                kernels=median(one.kernels_ms for one in hosts[i][1:]),
                products=median(alone[1:]),
                writes=median(writes[i][1:]),
                build=median(one.build_ms for one in hosts[i][1:]),
                submit=median(one.submit_ms for one in hosts[i][1:]),
                launches_per_layer=counted[i],
            )


def kernel_ms(work: Callable[[], list[mx.array]]) -> float:
    """Processor time of all threads but this one for a piece of work, the median of some."""
    times = []
    for _ in range(PASSES):
        process, thread = time.process_time(), time.thread_time()
        mx.eval(work())
        times.append(time.process_time() - process - (time.thread_time() - thread))
    return 1000 * median(times[SKIPPED:])


def products(model: Model, shape: Shape) -> Callable[[], list[mx.array]]:
    """One row through every matrix that a token meets, of a mixture's experts through two."""
    row = mx.random.normal((1, shape.dim))
    wide = mx.random.normal((1, shape.hidden_dim))
    heads = mx.random.normal((1, shape.n_heads * shape.head_dim))
    rows = {"down_proj": wide, "o_proj": heads}
    chosen = mx.array([[0, 1]])
    mx.eval(row, wide, heads, chosen)
    calls: list[tuple[Any, tuple[mx.array, ...]]] = []
    for path, module in model.named_modules():
        x = rows.get(path.rpartition(".")[2], row)
        if isinstance(module, ExpertLinear | QuantizedExpertLinear):
            calls.append((module, (x[:, None, None], chosen)))
        elif isinstance(module, nn.Linear | nn.QuantizedLinear):
            calls.append((module, (x,)))
    return lambda: [module(*given) for module, given in calls]


def cache_writes(caches: Sequence[Any], shape: Shape) -> Callable[[], list[mx.array]]:
    """A token's keys and values into every layer's cache."""
    pair = mx.random.normal((2, 1, shape.n_kv_heads, 1, shape.head_dim))
    keys, values = pair[0], pair[1]
    mx.eval(keys, values)

    def write() -> list[mx.array]:
        for one in caches:
            one.update_and_fetch(keys, values)
        return [part for one in caches for part in (one.keys, one.values)]

    return write


def _cells(model: str, one: TokenTime) -> str:
    times = (one.token, one.products, one.writes, one.others, one.build, one.submit)
    return as_row(
        model, one.program, *(f"{time:.2f}" for time in times), f"{one.launches_per_layer:.1f}"
    )


def main() -> None:
    parser = run_parser(__doc__.partition("\n")[0])
    parser.add_argument("--model", action="append", choices=SHAPES, help="only these")
    parser.add_argument("--fused", action="store_true", help="fuse element-wise kernels")
    args = parser.parse_args()
    print(head(), as_row(*COLUMNS), as_row(*repeat("---", len(COLUMNS))), sep="\n")
    with run_of(args) as run, fused_on_cpu() if args.fused else nullcontext():
        for bits in run.formats:
            for name in args.model or LARGE:
                ours, theirs = token_times(run, name, bits)
                print(_cells(label(name, bits), ours), _cells("", theirs), sep="\n")
                print(
                    as_row("", f"host {ours.host / theirs.host:.2f}x", *repeat("", 7)), flush=True
                )


if __name__ == "__main__":
    main()
