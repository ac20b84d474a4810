"""`convert`: weights of any layout become a quantized MLX folder."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import ConversionError

from . import options
from .convert_text import to_lines
from .progress_bar import ProgressBar
from .prompt import read_file
from .source import encode_file
from .terminal import note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.convert import Progress

MODES = ("affine", "mxfp4", "nvfp4", "mxfp8", "bf16", "fp16")
RECIPES = (
    "uniform", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6",
    "lifted_2", "lifted_3", "lifted_4", "lifted_5", "measured",
)  # fmt: skip
GROUP_SIZES = (16, 32, 64, 128)


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "convert", does="quantize a model's weights into an MLX folder", run=run
    )
    parser.add_argument("source", metavar="SOURCE", help="folder, Hub repository or alias")
    parser.add_argument("dest", metavar="DEST", help="folder to make")
    parser.add_argument(
        "--bits", type=options.above_zero, metavar="BITS",
        help="of a weight: 2, 3, 4, 5, 6 or 8; 16 quantizes nothing (default: 4); with "
        "--recipe measured the size of so many bits, fractions too",
    )  # fmt: skip
    parser.add_argument(
        "--group-size", type=int, choices=GROUP_SIZES,
        help="weights that share a scale (default: 64 for affine; part of the other modes)",
    )  # fmt: skip
    parser.add_argument(
        "--mode", choices=MODES, default="affine",
        help="number format (default: %(default)s); bf16 and fp16 quantize nothing",
    )  # fmt: skip
    parser.add_argument(
        "--recipe", choices=RECIPES, metavar="NAME",
        help=f"which matrices get more bits: {', '.join(RECIPES)} (default: uniform)",
    )  # fmt: skip
    parser.add_argument(
        "--calibration", metavar="FILE",
        help="text by which --recipe measured chooses bits, or chats, one a line of a .jsonl",
    )  # fmt: skip
    parser.add_argument(
        "--damages", metavar="FILE",
        help="keep what --recipe measured has measured in FILE, or take it from there",
    )  # fmt: skip
    parser.add_argument(
        "--fit", type=options.size, metavar="SIZE",
        help="choose the best recipe for which weights, cache and workspace fit SIZE",
    )  # fmt: skip
    parser.add_argument(
        "--context", type=options.positive, metavar="N",
        help="tokens that must fit with --fit (default: the model's context, at most 32768)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=options.DTYPES,
        help="of what is not quantized (default: the source's; bfloat16 for float32 and FP8)",
    )  # fmt: skip
    parser.add_argument(
        "--report", nargs="?", const="", metavar="FILE",
        help="then compare DEST with SOURCE on a text (default: the one of --calibration)",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace the model in DEST")
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint import resolve
    from mlx_mistral.convert import convert_checkpoint

    # Before hours of work: texts that cannot be read are no surprise at its end.
    calibration, report = _read_texts(args)
    source = resolve(args.source, progress=not args.quiet)
    choices: dict[str, Any] = {
        "bits": args.bits,
        "group_size": args.group_size,
        "mode": args.mode,
        "recipe": args.recipe,
        "dtype": args.dtype,
        "fit_bytes": args.fit,
        "context": args.context,
        "damages": args.damages,
    }
    if calibration is not None:
        choices["calibration"], choices["bos_id"] = _encode(source, calibration, args.calibration)
    report_ids = None
    if report is not None:
        report_ids = _encode(source, report, args.report or args.calibration)
    quiet = args.quiet or args.json
    bar = ProgressBar(quiet=quiet)
    measuring = ProgressBar(quiet=quiet, unit_bytes=False)
    try:
        done = convert_checkpoint(
            source,
            args.dest,
            overwrite=args.overwrite,
            progress=_converting(bar),
            measuring=lambda what, n, of: measuring.update(n, of, what),
            **choices,
        )
    finally:
        measuring.clear()
        bar.clear()
    if done.note:
        note(done.note, quiet=args.quiet)
    comparison = None
    if report_ids is not None:
        comparison = _compare(source, done.dest, *report_ids, quiet=quiet)
    if args.json:
        write_json({**done.to_json(), "report": comparison.to_json() if comparison else None})
    else:
        write_lines(to_lines(args.source, done, comparison))


def _read_texts(args: argparse.Namespace) -> tuple[str | None, str | None]:
    calibration = read_file(args.calibration, "--calibration") if args.calibration else None
    if args.recipe == "measured" and calibration is None:
        raise ConversionError(
            "the recipe measured needs a text like those that the model will read; "
            "give one with --calibration FILE"
        )
    if args.report:
        return calibration, read_file(args.report, "--report")
    if args.report == "" and calibration is None:
        note("--report has no text, so nothing is compared; give one: --report FILE")
    return calibration, calibration if args.report == "" else None


def _encode(folder: Path, content: str, path: str) -> tuple[list[int], int]:
    from mlx_mistral.text import load_tokenizer

    tokenizer = load_tokenizer(folder)
    return encode_file(content, path, tokenizer), tokenizer.bos_id


def _converting(bar: ProgressBar) -> Callable[[Progress], None]:
    def show(progress: Progress) -> None:
        bar.update(progress.done_bytes, progress.total_bytes, short_name(progress.parameter))

    return show


def short_name(parameter: str) -> str:
    """model.layers.3.self_attn.q_proj.weight as `layer 3 q_proj`."""
    parts = parameter.removesuffix(".weight").split(".")
    return f"layer {parts[2]} {parts[-1]}" if parts[:2] == ["model", "layers"] else parts[-1]


def _compare(source: Path, dest: Path, ids: list[int], bos_id: int, *, quiet: bool) -> Any:
    from mlx_mistral.convert import compare

    bar = ProgressBar(quiet=quiet, unit_bytes=False)
    try:
        return compare(
            source, dest, ids, bos_id=bos_id, progress=lambda n, of: bar.update(n, of, "comparing")
        )
    finally:
        bar.clear()
