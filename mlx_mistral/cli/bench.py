"""`bench`: tokens per second, memory, and the share of the machine's bandwidth."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import MlxMistralError

from . import options
from .bench_text import Report
from .terminal import Progress, note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.bench import Program, Result
    from mlx_mistral.bench.cases import Case
    from mlx_mistral.checkpoint import Headers

MLX_LM = "mlx-lm"
PAUSE_SECONDS = 0.5
_COUNT = re.compile(r"(\d{1,9})([kK]?)", re.ASCII)


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "bench", does="measure speed, memory and the share of the bandwidth", run=run
    )
    parser.epilog = (
        "Lists are separated by commas, and 4k is 4096. pp512 reads a prompt of 512 tokens, tg128 "
        "writes 128 tokens after one; `@ d4096` stands behind 4096 tokens of text, b8 is a batch "
        "of 8, whose tokens per second are those of all. Speeds are medians of the trials. "
        "A share of the bandwidth counts the bytes that a token must move at least."
    )
    options.add_model(parser)
    _add_tests(parser)
    parser.add_argument(
        "--against", metavar="WHAT",
        help=f"the same in turn with {MLX_LM}, another model, or a folder with another build",
    )  # fmt: skip
    parser.add_argument(
        "--speculate", action="store_true", help="draft tokens from the text so far"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw an .svg (or .png)")
    parser.add_argument(
        "--sweep", action="store_true",
        help="try sizes of a prompt's chunks and MLX's own settings; keep or say the best",
    )  # fmt: skip
    options.add_loading(parser)
    options.add_output(parser)


def _add_tests(parser: argparse.ArgumentParser) -> None:
    for flags, default, least, does in (
        (("-p", "--prompt-tokens"), "512", 0, "lengths of prompts to read; 0: none"),
        (("-g", "--gen-tokens"), "128", 0, "lengths of replies to write; 0: none"),
        (("--depth",), "0", 0, "tokens that the context holds already"),
        (("--batch",), "1", 1, "texts at once"),
    ):
        parser.add_argument(
            *flags, type=counts(least), default=counts(least)(default), metavar="N,…",
            help=f"{does} (default: {default})",
        )  # fmt: skip
    parser.add_argument(
        "-n", "--trials", type=options.positive, default=5, metavar="N",
        help="runs of each test, after one that does not count (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--pause", type=options.not_negative, default=PAUSE_SECONDS, metavar="SECONDS",
        help="rest before each run (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--fill", choices=("read", "random"), default="read",
        help="a depth is a text that is read, or random keys and values, which is quicker",
    )  # fmt: skip


def counts(least: int) -> Callable[[str], list[int]]:
    """A reader of whole numbers, separated by commas, with k for 1024."""

    def read(text: str) -> list[int]:
        values = []
        for item in text.split(","):
            found = _COUNT.fullmatch(item.strip())
            value = int(found[1]) * (1024 if found[2] else 1) if found else -1
            if not least <= value <= options.MAX_COUNT:
                raise argparse.ArgumentTypeError(
                    f"{item!r} is not a whole number from {least} on; write 512 or 0,4k,16k"
                )
            values.append(value)
        return list(dict.fromkeys(values))

    return read


def run(args: argparse.Namespace) -> None:
    if args.plot:
        from mlx_mistral.bench.plot import check_plot

        check_plot(args.plot)
    if args.speculate:
        from mlx_mistral.bench.ours import check_option

        check_option("speculate")
        if max(args.batch) > 1:
            raise MlxMistralError("--speculate is for one text; leave --batch out")
    progress = Progress(quiet=args.quiet or args.json)
    try:
        if args.sweep:
            from .bench_sweep import sweep

            sweep(args, progress)
            return
        report = _measure(args, progress)
    finally:
        progress.clear()
    if args.json:
        write_json(report.to_json())
    else:
        write_lines(report.to_lines())
    for remark in report.remarks():
        note(remark, quiet=args.quiet)


def _measure(args: argparse.Namespace, progress: Progress) -> Report:
    from mlx_mistral import bench
    from mlx_mistral.bench.cases import check_context
    from mlx_mistral.checkpoint import read_folder, resolve
    from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
    from mlx_mistral.memory.machine import machine_budget

    folder = resolve(args.model, progress=not args.quiet)
    headers = read_folder(folder)
    cases = _cases(args)
    check_context(cases, headers.config)
    budget_bytes = args.memory or machine_budget()
    if budget_bytes is not None:
        _check_budget(args, headers, cases, budget_bytes)
    dtype = resolve_dtype(args.dtype)
    works = {
        case: bench.work_of(case, headers.config, headers.parameters, dtype.size) for case in cases
    }
    card = bench.machine_card()
    bandwidth = bench.memory_bandwidth(gpu_cores=card["gpu_cores"])
    with ExitStack() as stack:
        programs = []
        for start in _programs(args, folder, budget_bytes):
            progress.show("loading")
            programs.append(stack.enter_context(closing(start())))
        results = bench.run_cases(
            programs,
            cases,
            trials=args.trials,
            pause_seconds=args.pause,
            drawn=args.fill == "random",
            works=works,
            bytes_per_second=bandwidth.bytes_per_second,
            progress=progress.show,
        )
    if args.plot:
        _plot(args, {one.name: found for one, found in zip(programs, results, strict=True)},
              bandwidth.bytes_per_second, dtype)  # fmt: skip
    return Report(
        model=_card_of(args, headers, dtype_name(dtype)),
        machine=card | {"bandwidth": bandwidth.bytes_per_second,
                        "bandwidth_source": bandwidth.source},
        versions=bench.versions(*(["mlx-lm"] if args.against == MLX_LM else [])),
        method={
            "trials": args.trials,
            "pause_seconds": args.pause,
            "fill": args.fill,
            "speculate": args.speculate,
        },
        results=results[0],
        against=programs[1].name if args.against else None,
        against_results=results[1] if args.against else [],
    )  # fmt: skip


def _check_budget(
    args: argparse.Namespace, headers: Headers, cases: Sequence[Case], budget_bytes: int
) -> None:
    """What is measured is measured whole: nothing steps down on the way.

    Raises: MemoryBudgetError: a case needs more, with all that is compared held at once.
    """
    from mlx_mistral.backend.select import active_backend
    from mlx_mistral.checkpoint import read_folder, resolve
    from mlx_mistral.checkpoint.dtype import dtype_name, resolve_dtype
    from mlx_mistral.memory import ModelNeeds
    from mlx_mistral.memory.admission import check_whole
    from mlx_mistral.memory.batch import Extent

    compared = [headers]
    if args.against and _is_of_same_weights(args.against):
        compared.append(headers)
    elif args.against:
        compared.append(read_folder(resolve(args.against, progress=not args.quiet)))
    dtype, scratch = dtype_name(resolve_dtype(args.dtype)), active_backend().scratch
    needs = [ModelNeeds.of(program, dtype=dtype, scratch=scratch) for program in compared]
    for case in cases:
        name = f"{args.model} in test {case.name}"
        check_whole(needs, name, budget_bytes, Extent(case.prompt, case.context), case.batch)


def _is_of_same_weights(against: str) -> bool:
    """Whether it is another program, rather than another model."""
    from mlx_mistral.bench.remote import is_build

    return against == MLX_LM or is_build(Path(against))


def _cases(args: argparse.Namespace) -> list[Case]:
    """Raises: MlxMistralError: nothing is left to be measured."""
    from mlx_mistral.bench import cases_for

    cases = cases_for(
        prompt_tokens=args.prompt_tokens,
        gen_tokens=args.gen_tokens,
        depths=args.depth,
        batches=args.batch,
    )
    if not cases:
        raise MlxMistralError(
            "there is nothing to measure: prompts behind a text are read one at a time; "
            "give --gen-tokens, --depth 0 or --batch 1"
        )
    return cases


def _programs(
    args: argparse.Namespace, folder: Path, budget_bytes: int | None
) -> Iterator[Callable[[], Program]]:
    """This program, and what it is compared with, each to be started when its turn comes."""
    from mlx_mistral.bench.ours import Ours
    from mlx_mistral.bench.remote import Remote

    ways: dict[str, Any] = {"speculate": True} if args.speculate else {}
    ways["memory"] = budget_bytes
    yield lambda: Ours(str(folder), dtype=args.dtype, **ways)
    if args.against == MLX_LM:
        from mlx_mistral.bench.peer import MlxLm

        yield lambda: MlxLm(str(folder), dtype=args.dtype)
    elif args.against and _is_of_same_weights(args.against):
        build = Path(args.against)
        yield lambda: Remote(build, str(folder), dtype=args.dtype, memory=budget_bytes)
    elif args.against:
        from mlx_mistral.checkpoint import resolve

        other = resolve(args.against, progress=not args.quiet)
        yield lambda: Ours(str(other), dtype=args.dtype, name=args.against, **ways)


def _card_of(args: argparse.Namespace, headers: Headers, dtype: str) -> dict[str, Any]:
    config = headers.config
    quantization = config.quantization.default if config.quantization else None
    return {
        "name": args.model,
        "family": config.family,
        "parameters": headers.parameter_count,
        "active_parameters": headers.active_parameter_count,
        "weight_bytes": headers.weight_bytes,
        "quantization": quantization
        and f"{quantization.mode} {quantization.bits}-bit, group {quantization.group_size}",
        "sliding_window": config.sliding_window,
        "dtype": dtype,
    }


def _plot(
    args: argparse.Namespace,
    results: dict[str, list[Result]],
    bytes_per_second: float,
    dtype: Any,
) -> None:
    from mlx_mistral.bench.bandwidth import matrix_flops
    from mlx_mistral.bench.plot import write_plot

    write_plot(
        args.plot,
        results,
        bytes_per_second=bytes_per_second,
        flops_per_second=matrix_flops(dtype),
    )
