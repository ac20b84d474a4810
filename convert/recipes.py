"""Named recipes: which matrices get more bits than the others, without looking at any weight."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from mlx_mistral.config import QuantParams
from mlx_mistral.config.quantization import AFFINE_BITS, AFFINE_GROUPS, FIXED_MODES
from mlx_mistral.errors import ConversionError

from .plan import Matrix, Plan

DEFAULT_BITS, DEFAULT_GROUP = 4, 64
NAMES = (
    "uniform", "mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6",
    "lifted_2", "lifted_3", "lifted_4", "lifted_5", "measured",
)  # fmt: skip
"""Every recipe that `--recipe` takes. `measured` needs a text, the others none."""

_MIXED = re.compile(r"mixed_(\d)_(\d)")
_LIFTED = re.compile(r"lifted_(\d)")

Choice = Callable[[Matrix], QuantParams]


def plain(matrices: Iterable[Matrix], dtype: str) -> Plan:
    """Nothing is quantized."""
    return Plan(recipe=dtype, formats={m.path: None for m in matrices}, dtype=dtype)


def named(
    recipe: str, matrices: Iterable[Matrix], params: QuantParams, n_layers: int, dtype: str
) -> Plan:
    """The plan of a recipe; of `params`, recipes with bits of their own use the group size.

    A matrix whose rows the groups do not divide stays unquantized, as with mlx-lm.
    Raises: ConversionError: no such recipe; a mixed recipe in a mode whose bits are fixed; no
        matrix that the groups divide.
    """
    choice = _choice(recipe, params, n_layers)
    formats: dict[str, QuantParams | None] = {}
    for matrix in matrices:
        chosen = choice(matrix)
        formats[matrix.path] = chosen if matrix.fits(chosen) else None
    if not any(formats.values()):
        raise ConversionError(
            f"groups of {params.group_size} divide the rows of no matrix of this model; "
            "choose a smaller --group-size"
        )
    return Plan(recipe=recipe, formats=formats, dtype=dtype)


def smallest(matrices: Iterable[Matrix], dtype: str) -> Plan:
    """The fewest bits in the largest groups that divide each matrix's rows."""
    formats: dict[str, QuantParams | None] = {}
    for matrix in matrices:
        offered = [
            QuantParams(bits=min(AFFINE_BITS), group_size=size) for size in reversed(AFFINE_GROUPS)
        ]
        formats[matrix.path] = next(filter(matrix.fits, offered), None)
    return Plan(recipe="measured", formats=formats, dtype=dtype)


def parameters_for(mode: str, bits: int | None, group_size: int | None) -> QuantParams:
    """Raises: ConfigError: the mode has no such bits or groups."""
    fixed = FIXED_MODES.get(mode, (DEFAULT_BITS, DEFAULT_GROUP))
    return QuantParams(
        bits=fixed[0] if bits is None else bits,
        group_size=fixed[1] if group_size is None else group_size,
        mode=mode,
    )


def _choice(recipe: str, params: QuantParams, n_layers: int) -> Choice:
    if recipe == "uniform":
        return lambda _: params
    if params.mode != "affine":
        raise ConversionError(
            f"the recipe {recipe} mixes numbers of bits, which {params.mode} does not have; "
            "leave --mode out"
        )
    if match := _MIXED.fullmatch(recipe):
        low, high = int(match[1]), int(match[2])
        return _mixed(_affine(low, params), _affine(high, params), n_layers)
    if match := _LIFTED.fullmatch(recipe):
        return _lifted(_affine(int(match[1]), params), n_layers)
    raise ConversionError(f"there is no recipe {recipe!r}; known are {', '.join(NAMES)}")


def _affine(bits: int, params: QuantParams) -> QuantParams:
    return QuantParams(bits=bits, group_size=params.group_size)


def _mixed(low: QuantParams, high: QuantParams, n_layers: int) -> Choice:
    """More bits for the head, and for v_proj and down_proj at both ends and every third layer.

    Source: mlx-lm, convert.py, mixed_quant_predicate_builder, which follows llama.cpp's Q4_K_M.
    """
    eighth, last_eighth = n_layers // 8, 7 * n_layers // 8

    def choose(matrix: Matrix) -> QuantParams:
        layer = matrix.layer or 0
        ends = layer < eighth or layer >= last_eighth
        more = ends or (layer - eighth) % 3 == 2
        lifted = matrix.kind in ("v_proj", "down_proj") and more
        return high if lifted or matrix.kind == "lm_head" else low

    return choose


def _lifted(base: QuantParams, n_layers: int) -> Choice:
    """The next larger number of bits where quantizing hurts, two steps where it hurts most.

    One step: v_proj, down_proj, and everything in the first and the last eighth of the layers.
    Two: what is both, the embeddings and the head.
    """
    eighth = max(1, n_layers // 8)

    def choose(matrix: Matrix) -> QuantParams:
        if matrix.layer is None:
            return _more(base, 2)
        at_an_end = matrix.layer < eighth or matrix.layer >= n_layers - eighth
        return _more(base, at_an_end + (matrix.kind in ("v_proj", "down_proj")))

    return choose


def _more(base: QuantParams, steps: int) -> QuantParams:
    place = min(AFFINE_BITS.index(base.bits) + steps, len(AFFINE_BITS) - 1)
    return QuantParams(bits=AFFINE_BITS[place], group_size=base.group_size)
