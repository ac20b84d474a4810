"""Bytes that weights take once they are loaded."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from mlx_mistral.checkpoint.parameters import Parameter, Piece
from mlx_mistral.config import QuantParams

DEFAULT_GROUP = 64
_UNQUANTIZED = (".gate.weight",)
"""Routers stay in full precision in every conversion; norms are no matrices."""
_EXPERTS = tuple(f".switch_mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
_FIELD = r"\.(weight|scales|biases)$"
_JOINED = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj")
_STORED = {"float32": ("F32", 4), "bfloat16": ("BF16", 2), "float16": ("F16", 2)}


def weights_in_memory(parameters: Mapping[str, Parameter], activation_bytes: int) -> int:
    """What MLX holds after loading: packed words as stored, every float in the activation dtype.

    FP8 is expanded on loading, so it counts as a float.
    """
    return sum(held_bytes(parameter, activation_bytes) for parameter in parameters.values())


def matrix_bytes_in_memory(
    shape: Sequence[int], params: QuantParams | None, activation_bytes: int
) -> int:
    """Bytes of a matrix, or of a stack of them, that is not written yet.

    Shapes: (out, in) or (E, out, in), with the group size dividing `in`. Affine scales and
    biases are held in the activation dtype, those of the MX and NV formats are one byte.
    """
    weights = math.prod(shape)
    if params is None:
        return weights * activation_bytes
    groups = weights // params.group_size
    group_bytes = 2 * activation_bytes if params.mode == "affine" else 1
    return weights * params.bits // 8 + groups * group_bytes


def uniform(bits: int) -> QuantParams:
    """How `convert --bits` stores a matrix unless told otherwise."""
    return QuantParams(group_size=DEFAULT_GROUP, bits=bits)


def uniform_weights_in_memory(
    parameters: Mapping[str, Parameter], bits: int, activation_bytes: int
) -> int:
    """As `weights_in_memory`, were each matrix of an unquantized model stored in so many bits."""
    params = uniform(bits)

    def held(parameter: Parameter) -> int:
        shape = parameter.shape
        if len(shape) < 2 or shape[-1] % DEFAULT_GROUP or parameter.name.endswith(_UNQUANTIZED):
            return held_bytes(parameter, activation_bytes)
        return matrix_bytes_in_memory(shape, params, activation_bytes)

    return sum(held(parameter) for parameter in parameters.values())


def loading_bytes(parameters: Mapping[str, Parameter], dtype: str) -> int:
    """The most that loading holds beside the weights: a tensor's copies, or a group's.

    A tensor is held as stored and as it is used, unless that is the same. Maps of one input are
    then joined, a group at a time. dtype: of activations, by its name in MLX.
    """
    tensors = (
        _loading(piece, parameter, dtype)
        for parameter in parameters.values()
        for piece in parameter.pieces
    )
    size = _STORED[dtype][1]
    held = {name: held_bytes(parameter, size) for name, parameter in parameters.items()}
    return max(joining_bytes(held), *tensors, 0)


def joining_bytes(held: Mapping[str, int]) -> int:
    """Bytes of the largest group of maps that are computed as one.

    held: bytes of each parameter, by its name.
    """
    groups: defaultdict[str, int] = defaultdict(int)
    for name, n_bytes in held.items():
        module, _, part = re.sub(_FIELD, "", name).rpartition(".")
        if part in _JOINED and module.endswith((".self_attn", ".mlp")):
            groups[module] += n_bytes
    return max(groups.values(), default=0)


def holds_plain_experts(parameters: Mapping[str, Parameter]) -> bool:
    """Whether a stack of experts is stored unquantized; the CPU multiplies it in float32 alone."""
    return any(p.is_float and p.name.endswith(_EXPERTS) for p in parameters.values())


def held_bytes(parameter: Parameter, activation_bytes: int) -> int:
    if parameter.is_float:
        return math.prod(parameter.shape) * activation_bytes
    return sum(piece.tensor.nbytes for piece in parameter.pieces)


def _loading(piece: Piece, parameter: Parameter, dtype: str) -> int:
    """A copy to reorder rows, one before it joins its stack; FP8 goes by way of float32."""
    stored_as, activation_bytes = _STORED[dtype]
    is_cast = parameter.is_float and piece.tensor.dtype != stored_as
    itemsize = activation_bytes if parameter.is_float else 4
    copies = (piece.form != "plain") + parameter.stacked
    float32 = 3 * 4 * piece.tensor.size if piece.scale else 0
    return is_cast * piece.tensor.nbytes + copies * itemsize * piece.tensor.size + float32
