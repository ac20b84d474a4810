"""`fit`: what a model needs in memory and whether it fits, from its headers alone."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from mlx_mistral.config.quantization import KV_BITS
from mlx_mistral.errors import CheckpointError, MemoryBudgetError, MlxMistralError

from . import options
from .fit_text import Report, to_lines
from .terminal import write_json, write_lines

if TYPE_CHECKING:
    from mlx_mistral.checkpoint import Headers
    from mlx_mistral.memory import Chip, ModelNeeds
    from mlx_mistral.memory.device import Device


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
    options.add_kv_bits(parser)
    parser.add_argument(
        "--chip", metavar="NAME",
        help='plan for another machine, such as "M2 Max", with its --memory',
    )  # fmt: skip
    options.add_dtype(parser)
    options.add_output(parser)


def run(args: argparse.Namespace) -> None:
    from mlx_mistral.checkpoint.hub_headers import read_model

    device = _device(args)
    headers = read_model(args.model)
    if not headers.parameters:
        raise CheckpointError(f"no weights in the files, {args.model}; download the model again")
    report = _report(args, headers, device)
    if args.json:
        write_json(to_json(report))
    else:
        write_lines(to_lines(report))


def to_json(report: Report) -> dict[str, Any]:
    """The figures by their promised names."""
    plan, start, end = report.plan, report.speed_at_start, report.speed_at_end
    return {
        "model": report.model,
        "context": plan.context,
        "dtype": report.dtype,
        "weights_bytes": plan.weights_bytes,
        "cache_bytes": plan.cache_bytes,
        "kv_bits": report.kv_bits,
        "workspace_bytes": plan.workspace_bytes,
        "total_bytes": plan.total_bytes,
        "budget_bytes": plan.budget_bytes,
        "budget_source": report.budget_source,
        "free_bytes": report.free_bytes,
        "fits": plan.fits,
        "max_context": report.max_context,
        "max_context_by_kv_bits": {str(bits or 16): n for bits, n in report.contexts},
        "advice": report.advice(),
        "chip": report.chip.name if report.chip else None,
        "expected_tps": start.tps if start else None,
        "expected_tps_at_context": end.tps if end else None,
        "bytes_per_token": start.bytes_per_token if start else None,
        "bytes_per_token_at_context": end.bytes_per_token if end else None,
        "bandwidth_share": start.share if start else None,
    }


def _device(args: argparse.Namespace) -> Device:
    """This machine, or another one by its chip."""
    from mlx_mistral.memory import find_chip, mac
    from mlx_mistral.memory.device import Device

    if args.chip is None:
        return Device.here(dtype=args.dtype, gpu_cores=mac.gpu_cores())
    if args.memory is None:
        raise MemoryBudgetError("--chip asks for another machine: give its --memory SIZE too")
    return Device.mac(find_chip(args.chip), dtype=args.dtype)


def _contexts(needs: ModelNeeds, budget_bytes: int) -> tuple[tuple[int | None, int], ...]:
    """The longest context that fits with each width of the cache."""
    from mlx_mistral.cache.quantized import can_quantize

    narrower = KV_BITS if can_quantize(needs.config.head_dim) else ()
    return tuple((bits, needs.max_context(budget_bytes, bits)) for bits in (None, *narrower))


def _conversion(
    headers: Headers, dtype: str, budget_bytes: int, context: int
) -> tuple[str, str] | None:
    """How `convert` makes the best of this model that fits: a flag and its value; None: it cannot.

    dtype: of activations.
    """
    from mlx_mistral.convert.fit import Room, best_named
    from mlx_mistral.convert.plan import matrices_of

    if headers.config.quantization is not None:
        return None
    room = Room(
        config=headers.config,
        parameters=headers.parameters,
        budget_bytes=budget_bytes,
        context=context,
        activations=dtype,
    )
    try:
        plan = best_named(matrices_of(headers.parameters), room, None, "bfloat16")
    except MlxMistralError:
        return None
    bits = {params.bits for params in plan.formats.values() if params}
    if not bits:
        return "--mode", "bf16"
    return ("--bits", str(max(bits))) if plan.recipe == "uniform" else ("--recipe", plan.recipe)


def _stepped_down(
    headers: Headers, needs: ModelNeeds, budget_bytes: int, context: int, chip: Chip | None
) -> str | None:
    """What `chat` and `generate` do with a model whose plan is too large; None: refuse it."""
    from mlx_mistral.memory.admission import least_plan
    from mlx_mistral.memory.streamed import expert_bytes, experts_room
    from mlx_mistral.streaming import expected_hit_rate, expected_tps, measured_disk_speed

    config = headers.config
    if least_plan(needs, budget_bytes, context).fits:
        return "it runs in smaller steps: short chunks of the prompt, then a quantized cache"
    room = experts_room(headers, needs, budget_bytes, context)
    if room is None or config.moe is None:
        return None
    one, n_experts = expert_bytes(headers, needs.activation_bytes), config.moe.num_experts
    n_experts *= config.n_layers
    hit_rate = expected_hit_rate(min(room // one, n_experts), n_experts)
    held = f"it runs with {room // one} of {n_experts} experts in memory, the others from disk"
    if not headers.files[0].is_file():
        return f"{held}: slowly, at the disk's speed"
    disk = measured_disk_speed(headers.files[0])
    tps = expected_tps(
        resident_tps=_resident_tps(needs, context, chip),
        hit_rate=hit_rate,
        chosen_per_token=config.n_layers * config.moe.num_experts_per_tok,
        expert_bytes=one,
        disk_bytes_per_second=disk,
    )
    return (
        f"{held}: slowly, about {tps:.1f} tokens a second at this disk's {disk / 1e9:.1f} GB/s "
        f"and {hit_rate:.0%} found in memory, as where all are chosen alike"
    )


def _resident_tps(needs: ModelNeeds, context: int, chip: Chip | None) -> float:
    """The speed were every expert in memory: of the chip asked about, or tried on this machine."""
    from mlx_mistral.memory.speed import FASTEST_TPS
    from mlx_mistral.streaming import measured_weight_speed

    if chip is None:
        tps = measured_weight_speed(needs.config, needs.dtype) / needs.read_bytes
        return min(tps, FASTEST_TPS)
    speed = needs.speed(chip, context)
    return speed.tps if speed else FASTEST_TPS


def _report(args: argparse.Namespace, headers: Headers, device: Device) -> Report:
    from mlx_mistral.memory import ModelNeeds, default_context
    from mlx_mistral.memory.machine import this_machine

    needs = ModelNeeds.of(headers, dtype=device.dtype, scratch=device.scratch)
    machine = None if args.memory else device.machine or this_machine()
    budget_bytes = machine.budget_bytes if machine else args.memory
    context = args.context or default_context(headers.config)
    return Report(
        model=args.model,
        config=headers.config,
        dtype=device.dtype,
        is_context_given=args.context is not None,
        budget_source=machine.source if machine else "--memory",
        free_bytes=machine.free_bytes if machine else None,
        plan=needs.plan(context, budget_bytes, args.kv_bits),
        max_context=needs.max_context(budget_bytes, args.kv_bits),
        contexts=_contexts(needs, budget_bytes),
        stepped_down=_stepped_down(headers, needs, budget_bytes, context, device.chip),
        kv_bits=args.kv_bits,
        fitting_kv_bits=None if args.kv_bits else needs.fitting_kv_bits(context, budget_bytes),
        conversion=_conversion(headers, device.dtype, budget_bytes, context),
        chip=device.chip,
        speed_at_start=needs.speed(device.chip, 0),
        speed_at_end=needs.speed(device.chip, context),
    )
