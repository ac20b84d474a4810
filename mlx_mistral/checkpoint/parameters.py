"""From stored tensors to the model's parameters, by headers alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import CheckpointError
from mlx_mistral.files.tensor_info import FLOATS, TensorInfo
from mlx_mistral.files.untrusted import shown

from .names import Form, Layout, Slot, slot

FP8 = "F8_E4M3"
MODULE_PARTS = ("weight", "scales", "biases")


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A stored tensor, and the scale that an FP8 weight is multiplied by."""

    tensor: TensorInfo
    form: Form
    scale: TensorInfo | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of the model and what it is made of.

    One piece, or one for each expert in their order.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    pieces: tuple[Piece, ...]
    stacked: bool = False

    @property
    def nbytes(self) -> int:
        """Bytes in the files, FP8 scales included."""
        return sum(p.tensor.nbytes + (p.scale.nbytes if p.scale else 0) for p in self.pieces)

    @property
    def is_float(self) -> bool:
        """Numbers to be cast to the activation dtype, not packed quantized ones."""
        return self.dtype in FLOATS or self.dtype == FP8

    @property
    def stored_name(self) -> str:
        """As the files spell it; where they spell several, the first."""
        return self.pieces[0].tensor.name


def assemble(
    tensors: Iterable[TensorInfo], layout: Layout, config: ModelConfig
) -> dict[str, Parameter]:
    """The parameters that a checkpoint's tensors make, by canonical name.

    Raises: CheckpointError: a tensor is stored twice; experts are missing or differ; an FP8
        weight has no scale or a scale no FP8 weight; a shape does not fit its stored form.
    """
    groups: dict[str, dict[int | None, tuple[TensorInfo, Slot]]] = {}
    for info in tensors:
        place = slot(info.name, layout)
        if place is None:
            continue
        members = groups.setdefault(place.target, {})
        if place.expert in members:
            first = members[place.expert][0]
            raise CheckpointError(
                f"{info.file} holds {shown(info.name)}, which is also in {first.file} as "
                f"{shown(first.name)}; keep one set of weights in the folder"
            )
        members[place.expert] = (info, place)
    scales = {name: groups.pop(name) for name in list(groups) if name.endswith(".fp8_scale")}
    parameters = {
        name: _parameter(name, members, scales.pop(_scale_name(name), {}), config)
        for name, members in groups.items()
    }
    if scales:
        orphan, _ = next(iter(next(iter(scales.values())).values()))
        raise CheckpointError(f"{orphan.file}: {shown(orphan.name)} scales no stored weight")
    return parameters


def _parameter(
    name: str,
    members: dict[int | None, tuple[TensorInfo, Slot]],
    scales: dict[int | None, tuple[TensorInfo, Slot]],
    config: ModelConfig,
) -> Parameter:
    pieces = []
    for number, (info, place) in members.items():
        scale = scales.pop(number, None)
        if (info.dtype == FP8) != (scale is not None):
            fault = "has an FP8 scale" if scale else "is FP8 and has no scale"
            raise CheckpointError(
                f"{info.file}: {shown(info.name)} ({info.dtype}) {fault}; download it again"
            )
        pieces.append(Piece(tensor=info, form=place.form, scale=scale[0] if scale else None))
    first = pieces[0].tensor
    if None in members and (len(members) > 1 or scales):
        raise CheckpointError(
            f"{first.file}: {shown(name)} is stored both stacked and expert by expert; "
            "keep one set of weights in the folder"
        )
    if None in members:
        shape = _shape(pieces[0], config)
        return Parameter(name=name, shape=shape, dtype=first.dtype, pieces=tuple(pieces))
    return _stack(name, dict(zip(members, pieces, strict=True)), config)


def _stack(name: str, pieces: dict[int | None, Piece], config: ModelConfig) -> Parameter:
    experts = config.moe.num_experts if config.moe else 0
    first = next(iter(pieces.values())).tensor
    ordered = []
    for number in range(experts):
        piece = pieces.pop(number, None)
        if piece is None:
            raise CheckpointError(
                f"{first.file}: expert {number} of {experts} of {shown(name)} is missing; "
                "download the model again"
            )
        info = piece.tensor
        if (info.shape, info.dtype) != (first.shape, first.dtype):
            raise CheckpointError(
                f"{info.file}: {shown(info.name)} is {info.dtype} {list(info.shape)}, another "
                f"expert {first.dtype} {list(first.shape)}; the experts must be alike"
            )
        ordered.append(piece)
    if pieces:
        extra = next(iter(pieces.values())).tensor
        raise CheckpointError(
            f"{extra.file}: {shown(extra.name)} is one expert more than the {experts} of the "
            "configuration; the two files do not belong together"
        )
    return Parameter(
        name=name,
        shape=(experts, *first.shape),
        dtype=first.dtype,
        pieces=tuple(ordered),
        stacked=True,
    )


def _shape(piece: Piece, config: ModelConfig) -> tuple[int, ...]:
    """The parameter's shape, where its stored form has another."""
    shape = piece.tensor.shape
    if piece.form == "plain":
        return shape
    if piece.form == "interleaved":
        if len(shape) == 2 and shape[0] % config.head_dim == 0:
            return shape
    elif config.moe and len(shape) == 2 and shape[0] % config.moe.num_experts == 0:
        experts = config.moe.num_experts
        rows, columns = shape[0] // experts, shape[1]
        return (experts, rows, columns) if piece.form == "expert_rows" else (experts, columns, rows)
    raise CheckpointError(
        f"{piece.tensor.file}: {shown(piece.tensor.name)} of shape {list(shape)} does not fit the "
        "configuration; the two files do not belong together"
    )


def _scale_name(parameter: str) -> str:
    module, _, part = parameter.rpartition(".")
    return f"{module}.fp8_scale" if part == "weight" else ""
