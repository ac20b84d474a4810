"""A checkpoint's parameters as arrays in canonical form, one at a time."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from mlx_mistral.errors import CheckpointError

from .fp8 import check_scale, dequantize
from .headers import read_folder
from .parameters import Parameter, Piece
from .sources import Sources, evaluated


class Checkpoint:
    """A model folder of any layout, ready to be read.

    Opening it reads headers alone; all that can be checked without the weights is checked.
    Raises: as `read_folder`; CheckpointError also for an FP8 scale of an unknown shape.
    """

    def __init__(self, folder: str | Path) -> None:
        self.headers = read_folder(folder)
        self.config = self.headers.config
        self.parameters = self.headers.parameters
        self._sources = Sources()
        for parameter in self.parameters.values():
            for piece in parameter.pieces:
                check_scale(piece)

    def read(self, name: str, dtype: mx.Dtype, *, lazy: bool = False) -> mx.array:
        """One parameter, its floats (FP8 included) cast to the dtype.

        Evaluated unless lazy. Of a stack of experts, one expert at a time is held twice.
        Raises: CheckpointError: the data cannot be read.
        """
        parameter = self.parameters[name]
        if lazy or not parameter.stacked:
            pieces = [self._piece(parameter, piece, dtype) for piece in parameter.pieces]
            array = mx.stack(pieces) if parameter.stacked else pieces[0]
            return array if lazy else evaluated(array, name)
        return self._stack(parameter, dtype)

    def _stack(self, parameter: Parameter, dtype: mx.Dtype) -> mx.array:
        stack: mx.array | None = None
        for number, piece in enumerate(parameter.pieces):
            expert = evaluated(self._piece(parameter, piece, dtype), parameter.name)
            if stack is None:
                stack = evaluated(mx.zeros(parameter.shape, expert.dtype), parameter.name)
            # Evaluated at once, while nothing else holds the stack, this writes in place.
            stack[number] = expert
            evaluated(stack, parameter.name)
            del expert  # before the next one is read
        if stack is None:
            raise CheckpointError(f"{parameter.name} has no experts")
        return stack

    def _piece(self, parameter: Parameter, piece: Piece, dtype: mx.Dtype) -> mx.array:
        array = self._sources.read(piece.tensor)
        if piece.scale is not None:
            array = dequantize(array, self._sources.read(piece.scale))
        if parameter.is_float:
            array = array.astype(dtype)
        if piece.form == "plain":
            return array
        if piece.form == "interleaved":
            return halves_from_pairs(array, self.config.head_dim)
        array = mx.unflatten(array, 0, (parameter.shape[0], -1))
        return array if piece.form == "expert_rows" else mx.contiguous(array.swapaxes(1, 2))


def halves_from_pairs(weight: mx.array, head_dim: int) -> mx.array:
    """Rows of q or k, from RoPE pairs (2i, 2i+1) within a head to pairs (i, i + D/2).

    Shapes: (heads * D, dim) -> the same.
    Source: transformers' Mistral conversion script; checked against both RoPE forms in tests.
    """
    rows, columns = weight.shape
    pairs = weight.reshape(-1, head_dim // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)
