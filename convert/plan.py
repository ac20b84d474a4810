"""A plan: how each matrix of a model will be stored, decided before anything is read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.config import QuantConfig, QuantParams
from mlx_mistral.files.tensor_info import DTYPE_BITS

from .stored import SPELLED, StoredTensor, stored_tensors

ROUTER = "block_sparse_moe.gate"
_LAYER = re.compile(r"model\.layers\.(\d+)\.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """A weight matrix, or a stack of experts' matrices, that may be quantized."""

    path: str
    """Of its module: `model.layers.0.self_attn.v_proj`."""
    shape: tuple[int, ...]

    @property
    def kind(self) -> str:
        """The module's own name: v_proj, embed_tokens, lm_head."""
        return self.path.rpartition(".")[2]

    @property
    def layer(self) -> int | None:
        match = _LAYER.match(self.path)
        return int(match[1]) if match else None

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def fits(self, params: QuantParams | None) -> bool:
        """Whether groups divide its rows, as MLX needs them to."""
        return params is None or self.shape[-1] % params.group_size == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What becomes of each matrix. What is not named here, norms and routers, stays as it is."""

    recipe: str
    formats: Mapping[str, QuantParams | None]
    """For each matrix by its module's path; None: left unquantized."""
    dtype: str
    """Of what is not quantized, and of affine scales: a name of MLX."""
    why: str = ""
    importance: Mapping[str, mx.array] = field(default_factory=dict, compare=False, repr=False)
    """For matrices that were measured: how much an error in each input column matters.

    Shapes: (columns,), or (E, columns) for a stack. Rounding then goes by it.
    """

    def quantization(self) -> QuantConfig | None:
        """The block for config.json: the commonest format, and what differs from it.

        As mlx-lm writes it, what is left unquantized is not listed: it has no scales.
        """
        used = Counter(params for params in self.formats.values() if params is not None)
        if not used:
            return None
        default = max(used, key=lambda params: (used[params], -params.bits, -params.group_size))
        others = {
            path: params
            for path, params in sorted(self.formats.items())
            if params is not None and params != default
        }
        return QuantConfig(default=default, overrides=others)

    def to_json(self) -> dict[str, Any]:
        quantization = self.quantization()
        return {
            "recipe": self.recipe,
            "why": self.why,
            "dtype": self.dtype,
            "quantization": quantization.to_json() if quantization else None,
            "bits_by_kind": self.bits_by_kind(),
        }

    def bits_by_kind(self) -> dict[str, list[int]]:
        """Which numbers of bits the matrices of each kind have; 16 where not quantized."""
        kinds: dict[str, set[int]] = {}
        for path, params in self.formats.items():
            bits = params.bits if params else DTYPE_BITS[SPELLED[self.dtype]]
            kinds.setdefault(path.rpartition(".")[2], set()).add(bits)
        return {kind: sorted(bits) for kind, bits in sorted(kinds.items())}


def matrices_of(parameters: Mapping[str, Parameter]) -> list[Matrix]:
    """What a plan decides on, in the order of the layers: all matrices but the routers'."""
    return [
        Matrix(path=name.removesuffix(".weight"), shape=parameter.shape)
        for name, parameter in sorted(parameters.items(), key=lambda item: natural(item[0]))
        if len(parameter.shape) >= 2 and not name.endswith(f"{ROUTER}.weight")
    ]


def tensors_of(parameters: Mapping[str, Parameter], plan: Plan) -> dict[str, list[StoredTensor]]:
    """What each parameter is going to be in the files, in the order of the layers."""
    return {
        name: stored_tensors(
            name, parameter.shape, plan.formats.get(name.removesuffix(".weight")), plan.dtype
        )
        for name, parameter in sorted(parameters.items(), key=lambda item: natural(item[0]))
    }


def planned_bytes(parameters: Mapping[str, Parameter], plan: Plan) -> int:
    """Bytes of all tensors that the plan makes."""
    return sum(tensor.nbytes for group in tensors_of(parameters, plan).values() for tensor in group)


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
