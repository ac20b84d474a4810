"""Texts decoded together: this program at several sizes of a batch, and beside mlx-lm in turn.

    LD_PRELOAD=…/libopenblas.so.0 python benchmarks/batches.py [--model NAME …] [--markdown]

`tg32 b8` are eight texts of one length. `queue` are 24 prompts of 8 to 96 tokens, whose replies
of 4 to 48 tokens end one after another while at most eight run; its time is that of all, reading
included. Rows "ours alone" are tokens/s over those of one text. A ratio above 1x is this program's
advantage; memory below 1x as well.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from statistics import median
from typing import Any

import mlx.core as mx
from speed import DEMOS, LARGE, Line, Run, as_cells, label, line_of, table, table_parser

from mlx_mistral.bench import Case, compare, run_cases
from mlx_mistral.bench.ours import Ours
from mlx_mistral.bench.peer import MlxLm
from mlx_mistral.generation import BatchGenerator

SIZES = (1, 2, 4, 8)
MAX_BATCH = 8
Asked = Sequence[tuple[list[int], int]]
"""Prompts, and how many tokens each reply has."""
Replies = list[list[int]]


def sizes(run: Run, name: str, bits: int | None) -> Iterator[Line]:
    """Decoding at every size, against mlx-lm and against one text alone."""
    folder, cases = run.model(name, bits), [Case(gen_tokens=32, batch=n) for n in SIZES]
    with closing(Ours(folder)) as ours, closing(MlxLm(folder)) as theirs:
        both = run_cases([ours, theirs], cases, trials=run.trials)
    for mine, other in zip(*both, strict=True):
        yield line_of("batches", label(name, bits), compare(mine, other))
    one = both[0][0]
    for case, mine in list(zip(cases, both[0], strict=True))[1:]:
        ratios = [b / a for a, b in zip(one.trials_tps, mine.trials_tps, strict=True)]
        memory = mine.peak_memory_bytes / one.peak_memory_bytes
        yield _ratio_line(name, bits, f"{case.name} over b1", ratios, memory, "ours alone")


def queue(run: Run, name: str, bits: int | None) -> Iterator[Line]:
    """Uneven texts that come and go."""
    folder = run.model(name, bits)
    with closing(Ours(folder)) as ours, closing(MlxLm(folder)) as theirs:
        asked = _uneven(ours.vocab_size)
        programs: list[Callable[[], Replies]] = [
            lambda: ours_together(ours, asked),
            lambda: theirs_together(theirs, asked),
        ]
        times: list[list[float]] = [[], []]
        peaks, said = [0, 0], [[], []]
        for trial in range(-1, run.trials):
            for i, program in enumerate(programs):
                mx.clear_cache()
                mx.reset_peak_memory()
                began = time.perf_counter()
                said[i] = program()
                if trial >= 0:
                    times[i].append(time.perf_counter() - began)
                    peaks[i] = max(peaks[i], mx.get_peak_memory())
    same = sum(a == b for a, b in zip(*said, strict=True))
    ratios = [b / a for a, b in zip(*times, strict=True)]
    remark = f"{same} of {len(asked)} texts the same"
    yield _ratio_line(name, bits, "queue", ratios, peaks[0] / peaks[1], remark)


def ours_together(program: Ours, asked: Asked) -> Replies:
    batch = BatchGenerator(program._model, max_batch=MAX_BATCH)
    ids = [batch.insert(prompt, max_tokens=n) for prompt, n in asked]
    made: dict[int, list[int]] = {one: [] for one in ids}
    while batch:
        for new in batch.next():
            made[new.id].append(new.token)
    return [made[one] for one in ids]


def theirs_together(program: MlxLm, asked: Asked) -> Replies:
    loop: Any = program._loop
    batch = loop.BatchGenerator(
        program._model, completion_batch_size=MAX_BATCH, prefill_batch_size=MAX_BATCH
    )
    try:
        ids = batch.insert([list(prompt) for prompt, _ in asked], [n for _, n in asked])
        made: dict[Any, list[int]] = {one: [] for one in ids}
        while new := batch.next_generated():
            for response in new:
                made[response.uid].append(int(response.token))
        return [made[one] for one in ids]
    finally:
        batch.close()


def main() -> None:
    names = [*DEMOS, *LARGE]
    parser = table_parser(__doc__.partition("\n")[0], ROWS)
    parser.add_argument("--model", action="append", choices=names, help="only these")
    args = parser.parse_args()
    with table(args) as run:
        for bits in run.formats:
            for name in args.model or names:
                for row in args.row or ROWS:
                    for line in ROWS[row](run, name, bits):
                        print(as_cells(line), flush=True)


def _uneven(vocab_size: int) -> Asked:
    drawn = random.Random(8)
    return [
        ([drawn.randrange(vocab_size) for _ in range(drawn.randint(8, 96))], drawn.randint(4, 48))
        for _ in range(24)
    ]


def _ratio_line(
    name: str, bits: int | None, test: str, ratios: Sequence[float], memory: float, remark: str
) -> Line:
    return Line(
        row="batches",
        model=label(name, bits),
        test=test,
        ratio=median(ratios),
        least=min(ratios),
        most=max(ratios),
        memory=memory,
        remark=remark,
    )


ROWS: dict[str, Callable[[Run, str, int | None], Iterator[Line]]] = {
    "sizes": sizes,
    "queue": queue,
}


if __name__ == "__main__":
    main()
