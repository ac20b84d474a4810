"""`fit`: what a model needs in memory and whether it fits, from its headers alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_mistral.errors import CheckpointError

from . import options
from .fit_text import Report, to_lines
from .terminal import write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.checkpoint import Headers

"""Where the model does not say what it was made for."""
FEWER_BITS = (8, 6, 5, 4, 3, 2)


def add_to(commands: options.Commands) -> None:
    parser = options.new_command(
        commands, "fit", does="say what a model needs in memory and whether it fits", run=run
    )
    parser.epilog = (
        "The sum covers what MLX allocates: weights, cache and workspace of one text. Python and "
        "the tokenizer take another 100 to 150 MB. Attention is reckoned as the CPU computes it; "
        "on a GPU, where its kernels are fused, the workspace is smaller."
    )
    options.add_model(parser)
    parser.add_argument(
        "--memory", type=options.size, metavar="SIZE",
        help="the budget, such as 16GB (default: what this machine gives)",
    )  # fmt: skip
    parser.add_argument(
        "--context", type=options.positive, metavar="N",
        help="tokens of prompt and reply (default: the model's own, at most 32768)",
    )  # fmt: skip
    options.add_dtype(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_headers import read_model

    headers = read_model(args.model)
    if not headers.parameters:
        raise CheckpointError(f"no weights in the files, {args.model}; download the model again")
    report = _report(args, headers)
    if args.json:
        write_json(to_json(report))
    else:
        write_lines(to_lines(report))


def to_json(report: Report) -> dict[str, Any]:
    """The figures by their promised names."""
    plan = report.plan
    return {
        "model": report.model,
        "context": plan.context,
        "dtype": report.dtype,
        "weights_bytes": plan.weights_bytes,
        "cache_bytes": plan.cache_bytes,
        "workspace_bytes": plan.workspace_bytes,
        "total_bytes": plan.total_bytes,
        "budget_bytes": plan.budget_bytes,
        "budget_source": report.budget_source,
        "free_bytes": report.free_bytes,
        "fits": plan.fits,
        "max_context": report.max_context,
        "advice": report.advice(),
    }


def _report(args: argparse.Namespace, headers: Headers) -> Report:
    from mlx_mistral.checkpoint.dtype import on_gpu, resolve_dtype
    from mlx_mistral.memory import (
        default_context,
        loading_bytes,
        max_context,
        plan_memory,
    )
    from mlx_mistral.memory.machine import this_machine
    from mlx_mistral.memory.weights import holds_plain_experts, weights_in_memory

    config, parameters = headers.config, headers.parameters
    dtype = resolve_dtype(args.dtype)
    dtype_name = str(dtype).rpartition(".")[2]
    machine = None if args.memory else this_machine()
    needs: dict[str, Any] = {
        "budget_bytes": machine.budget_bytes if machine else args.memory,
        "activation_bytes": dtype.size,
        "loading_bytes": loading_bytes(parameters, dtype_name),
        "gathers_float32": (
            not on_gpu() and dtype_name != "float32" and holds_plain_experts(parameters)
        ),
    }
    weights_bytes = weights_in_memory(parameters, dtype.size)
    context = args.context or default_context(config)
    return Report(
        model=args.model,
        config=config,
        dtype=dtype_name,
        is_context_given=args.context is not None,
        budget_source=machine.source if machine else "--memory",
        free_bytes=machine.free_bytes if machine else None,
        plan=plan_memory(config, weights_bytes=weights_bytes, context=context, **needs),
        max_context=max_context(config, weights_bytes=weights_bytes, **needs),
        fitting_bits=_fitting_bits(headers, context, needs),
    )


def _fitting_bits(headers: Headers, context: int, needs: dict[str, Any]) -> int | None:
    """The most bits a weight with which an unquantized model would fit, if any are few enough."""
    from mlx_mistral.memory import plan_memory
    from mlx_mistral.memory.weights import uniform_weights_in_memory

    if headers.config.quantization is not None:
        return None
    needs = {**needs, "gathers_float32": False, "loading_bytes": 0}
    for bits in FEWER_BITS:
        weights = uniform_weights_in_memory(headers.parameters, bits, needs["activation_bytes"])
        if plan_memory(headers.config, weights_bytes=weights, context=context, **needs).fits:
            return bits
    return None
