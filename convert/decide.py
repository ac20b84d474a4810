"""From what was asked for to a plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mlx_mistral.checkpoint.dtype import resolve_dtype
from mlx_mistral.checkpoint.parameters import FP8, Parameter
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.config.quantization import AFFINE_BITS, FIXED_MODES
from mlx_mistral.errors import ConversionError

from . import fit
from .kept import measured_once, measurement_key
from .measured import Damages, choose, measure
from .plan import Matrix, Plan, matrices_of, planned_bytes
from .recipes import DEFAULT_BITS, DEFAULT_GROUP, named, parameters_for, plain, smallest
from .stored import SPELLED

PLAIN_MODES = {"bf16": "bfloat16", "fp16": "float16"}
"""Modes that quantize nothing."""
MODES = ("affine", *FIXED_MODES, *PLAIN_MODES)
PLAIN_BITS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a conversion is asked for. What is None follows from the rest."""

    bits: float | None = None
    """Of a weight; 16 quantizes nothing. For `measured` an average, and may be a fraction."""
    group_size: int | None = None
    mode: str = "affine"
    recipe: str | None = None
    dtype: str | None = None
    """Of what is not quantized; by default the source's, and bfloat16 for float32 and FP8."""
    fit_bytes: int | None = None
    """Memory that weights, cache and workspace must fit together."""
    context: int | None = None
    """Tokens that the cache must hold within `fit_bytes`."""
    calibration: Sequence[int] | None = None
    """Token ids of a text, for the recipe `measured`."""
    bos_id: int | None = None
    damages: str | Path | None = None
    """A file to keep the measurement in, or to take it from."""


def decide(
    checkpoint: Checkpoint,
    request: Request,
    *,
    keep: Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """The plan that a request asks for.

    keep: a file for the measurement, where the request names none.
    progress: hears of measuring, where there is any.

    Raises: ConversionError, ConfigError: what was asked for does not go together, or not with
    this model. MemoryBudgetError: nothing fits the budget.
    """
    dtype = _dtype(checkpoint.parameters, request)
    matrices = matrices_of(checkpoint.parameters)
    room = None
    if request.fit_bytes is not None:
        room = fit.Room.of(checkpoint, request.fit_bytes, request.context)
    elif request.context is not None:
        raise ConversionError("--context counts with --fit alone; add --fit SIZE or leave it out")
    if request.recipe == "measured":
        return _measured(checkpoint, request, matrices, room, dtype, keep, progress)
    if room is not None and _leaves_bits_open(request):
        return fit.best_named(matrices, room, request.group_size, dtype)
    plan = _asked_for(request, matrices, checkpoint.config.n_layers, dtype)
    return fit.checked(plan, room) if room else plan


def _leaves_bits_open(request: Request) -> bool:
    return request.bits is None and request.recipe is None and request.mode == "affine"


def _asked_for(request: Request, matrices: Sequence[Matrix], n_layers: int, dtype: str) -> Plan:
    bits, recipe = request.bits, request.recipe or "uniform"
    is_plain = request.mode in PLAIN_MODES
    if bits is not None and request.mode != "affine" and is_plain != (bits == PLAIN_BITS):
        raise ConversionError(
            f"--mode {request.mode} and --bits {bits:g} differ; leave one of them out"
        )
    if is_plain or bits == PLAIN_BITS:
        for flag, value in (("--group-size", request.group_size), ("--recipe", request.recipe)):
            if value is not None:
                raise ConversionError(
                    f"{flag} says how to quantize, and nothing is quantized; leave it out"
                )
        return plain(matrices, dtype)
    if bits is not None and bits not in AFFINE_BITS:
        raise ConversionError(
            f"{bits:g} bits do not exist; choose {', '.join(map(str, AFFINE_BITS))}, or 16 for "
            "none (--recipe measured takes any average)"
        )
    if recipe != "uniform" and bits is not None:
        raise ConversionError(f"the recipe {recipe} chooses the bits itself; leave --bits out")
    params = parameters_for(request.mode, None if bits is None else int(bits), request.group_size)
    return named(recipe, matrices, params, n_layers, dtype)


def _measured(
    checkpoint: Checkpoint,
    request: Request,
    matrices: Sequence[Matrix],
    room: fit.Room | None,
    dtype: str,
    keep: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> Plan:
    if request.calibration is None:
        raise ConversionError("the recipe measured needs a text; give one as calibration")
    if request.mode != "affine":
        raise ConversionError(
            f"the recipe measured chooses among affine formats; leave --mode {request.mode} out"
        )
    if room is not None and request.bits is not None:
        raise ConversionError("--fit and --bits both say how large the result is; leave one out")
    measured = _measurement(checkpoint, request, request.calibration, dtype, keep, progress)
    shapes = {matrix.path: matrix.shape for matrix in matrices}
    fixed = planned_bytes(
        {n: p for n, p in checkpoint.parameters.items() if n.removesuffix(".weight") not in shapes},
        plain([], dtype),
    )

    def choose_within(budget_bytes: int) -> Plan:
        formats = choose(measured, shapes, budget_bytes, fixed_bytes=fixed)
        return Plan(recipe="measured", formats=formats, dtype=dtype, importance=measured.importance)

    if room is not None:
        return fit.best_measured(room, choose_within, smallest(matrices, dtype))
    bits = DEFAULT_BITS if request.bits is None else request.bits
    group_size = request.group_size or DEFAULT_GROUP
    n_bytes = fixed + math.floor(sum(m.size for m in matrices) * (bits + 32 / group_size) / 8)
    plan = choose_within(n_bytes)
    why = f"least damage in the bytes of {bits:g} bits in groups of {group_size}"
    return replace(plan, why=f"{why}, measured on {measured.tokens:,} tokens")


def _measurement(
    checkpoint: Checkpoint,
    request: Request,
    ids: Sequence[int],
    dtype: str,
    keep: Path | None,
    progress: Callable[[str, int, int], None] | None,
) -> Damages:
    stored = resolve_dtype(dtype)

    def now() -> Damages:
        return measure(checkpoint, ids, bos_id=request.bos_id, stored=stored, progress=progress)

    place = Path(request.damages) if request.damages else keep
    if place is None:
        return now()
    key = measurement_key(checkpoint, ids, request.bos_id, dtype)
    asked_for = request.damages is not None
    return measured_once(place, key=key, measure=now, must_match=asked_for)


def _dtype(parameters: Mapping[str, Parameter], request: Request) -> str:
    """What is asked for; else the dtype in which most of the source's bytes are."""
    asked = PLAIN_MODES.get(request.mode, request.dtype)
    if asked is not None:
        if asked not in SPELLED:
            raise ConversionError(f"dtype {asked} is unknown; use one of {', '.join(SPELLED)}")
        if request.dtype not in (None, asked):
            raise ConversionError(
                f"--mode {request.mode} and --dtype {request.dtype} differ; leave one of them out"
            )
        return asked
    sizes: dict[str, int] = {}
    for parameter in parameters.values():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.nbytes
    most = max(sizes, key=lambda dtype: sizes[dtype], default=FP8)
    return "float16" if most == "F16" else "bfloat16"
