"""From what was asked for to a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mlx_mistral.checkpoint.parameters import FP8, Parameter
from mlx_mistral.checkpoint.reader import Checkpoint
from mlx_mistral.config.quantization import AFFINE_BITS, FIXED_MODES
from mlx_mistral.errors import ConversionError

from .plan import Plan, matrices_of
from .recipes import named, parameters_for, plain
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


def decide(
    checkpoint: Checkpoint,
    request: Request,
    progress: Callable[[str, int, int], None] | None = None,
) -> Plan:
    """Raises: ConversionError, ConfigError: what was asked for does not go together, or not with
    this model. MemoryBudgetError: nothing fits the budget."""
    dtype = _dtype(checkpoint.parameters, request)
    matrices = matrices_of(checkpoint.parameters)
    n_layers = checkpoint.config.n_layers
    if request.mode in PLAIN_MODES or request.bits == PLAIN_BITS:
        _refuse(request, "group_size", "recipe", "fit_bytes", why="nothing is quantized")
        return plain(matrices, dtype)
    bits = request.bits
    if bits is not None and bits != int(bits):
        raise ConversionError(
            f"{bits} bits are an average, which only --recipe measured can reach; bits are one of "
            f"{', '.join(map(str, AFFINE_BITS))}"
        )
    params = parameters_for(request.mode, None if bits is None else int(bits), request.group_size)
    recipe = request.recipe or "uniform"
    if recipe != "uniform" and bits is not None:
        raise ConversionError(f"the recipe {recipe} chooses the bits itself; leave --bits out")
    return named(recipe, matrices, params, n_layers, dtype)


def _refuse(request: Request, *names: str, why: str) -> None:
    for name in names:
        if getattr(request, name) is not None:
            flag = {"fit_bytes": "fit"}.get(name, name.replace("_", "-"))
            raise ConversionError(f"--{flag} says nothing where {why}; leave it out")


def _dtype(parameters: Mapping[str, Parameter], request: Request) -> str:
    """What is asked for; else the dtype in which most of the source's bytes are."""
    asked = PLAIN_MODES.get(request.mode, request.dtype)
    if asked is not None:
        if asked not in SPELLED:
            raise ConversionError(f"dtype {asked} is unknown; use one of {', '.join(SPELLED)}")
        if request.dtype not in (None, asked):
            raise ConversionError(f"--mode {request.mode} and --dtype {request.dtype} differ")
        return asked
    sizes: dict[str, int] = {}
    for parameter in parameters.values():
        sizes[parameter.dtype] = sizes.get(parameter.dtype, 0) + parameter.nbytes
    most = max(sizes, key=lambda dtype: sizes[dtype], default=FP8)
    return "float16" if most == "F16" else "bfloat16"
