"""`doctor`: checks that this machine computes what it should, in its memory and at its speed."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from mlx_mistral.errors import MlxMistralError

from . import options
from .doctor_text import card_lines, check_line, summary
from .terminal import Progress, note, write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.doctor import Check, Probe

SECONDS, QUICK_SECONDS = 52.0, 8.0
"""No check starts later than this after the command, so that it ends within 60 and 10 seconds."""


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "doctor", does="check operations, memory and speed on this machine", run=run
    )
    parser.epilog = (
        "Runs every operation of the backend at the shapes of real models and compares the "
        "results with float64 in NumPy; compares the bundled model's reply with a recorded one, "
        "the memory plan with the measured peak, and the speed with the chip's bandwidth. Takes "
        "less than 60 seconds, with --quick less than 10. Exit status 1: a check failed. "
        "Attach the output of --json to a report."
    )
    parser.add_argument("--quick", action="store_true", help="only the most important checks")
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    """Run the checks and print one line for each.

    Raises: MlxMistralError: a check failed.
    """
    from mlx_mistral.backend.device import default_dtype
    from mlx_mistral.backend.select import active_backend
    from mlx_mistral.bench import machine_card, versions
    from mlx_mistral.checkpoint.dtype import dtype_name
    from mlx_mistral.doctor import all_probes
    from mlx_mistral.doctor.check import SKIPPED

    begin = time.monotonic()
    progress = Progress(quiet=args.quiet)
    progress.show("reading the machine's facts")
    card = machine_card()
    package_versions = versions()
    dtype = dtype_name(default_dtype())
    probes = all_probes(card, quick=args.quick)
    if not args.json:
        progress.clear()
        write_lines([*card_lines(card, package_versions, active_backend().name, dtype), ""])
    checks = []
    width = max(len(probe.name) for probe in probes)
    limit = QUICK_SECONDS if args.quick else SECONDS
    for check in _checks(probes, progress, begin + limit - time.monotonic()):
        checks.append(check)
        if not args.json:
            write_lines([check_line(check, width)])
    seconds = time.monotonic() - begin
    failed = [check for check in checks if not check.ok]
    if args.json:
        write_json(
            {
                "ok": not failed,
                "machine": card,
                "versions": package_versions,
                "checks": [check.to_json() for check in checks],
                "backend": active_backend().name,
                "dtype": dtype,
                "quick": args.quick,
                "skipped": sum(check.value == SKIPPED for check in checks),
                "seconds": round(seconds, 1),
            }
        )
    note(summary(checks, seconds), quiet=args.quiet or args.json)
    if failed:
        raise MlxMistralError(_error_text(failed, len(checks)))


def _checks(probes: Sequence[Probe], progress: Progress, seconds: float) -> Iterator[Check]:
    """Yield finished checks, with the name of the next one as progress meanwhile."""
    from mlx_mistral.doctor import free_memory, run_probes

    checks = run_probes(
        probes,
        seconds=seconds,
        on_start=progress.show,
        after=free_memory,
    )
    try:
        for check in checks:
            progress.clear()
            yield check
    finally:
        progress.clear()


def _error_text(failed: Sequence[Check], n_checks: int) -> str:
    others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return (
        f"{len(failed)} of {n_checks} checks failed: {failed[0].name}{others}; "
        "follow the advice of each failed check"
    )
