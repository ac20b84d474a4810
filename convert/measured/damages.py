"""What quantizing each matrix does to a model's output, as measured; kept as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from mlx_mistral.config import QuantParams
from mlx_mistral.errors import ConfigError, ConversionError

from . import kept_arrays
from .formats import Format

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Damages:
    """The damage of each format to each matrix, in nats a token.

    That is the mean KL divergence from the model's predictions to those that it makes when
    this matrix alone is stored so.
    """

    by_path: Mapping[str, Mapping[Format, float]]
    """By the path of the matrix's module, such as `model.layers.3.self_attn.v_proj`."""
    probes: tuple[QuantParams, ...]
    """The formats whose divergence was measured; for the others it follows from their errors."""
    tokens: int
    """Tokens that output errors were taken over."""
    branch_tokens: int
    """Those of them that divergences were taken over."""
    importance: Mapping[str, mx.array] = field(default_factory=dict, compare=False, repr=False)
    """For each matrix the mean square of each input column, for `refine`.

    Shapes: (columns,), or (E, columns) of a stack; the table of embeddings has none.
    """

    def of(self, path: str) -> Mapping[Format, float]:
        """Raises: ConversionError: this matrix was not measured."""
        if path not in self.by_path:
            raise ConversionError(
                f"{path} was not measured; measure the damages of this model, not of another"
            )
        return self.by_path[path]

    def to_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "tokens": self.tokens,
            "branch_tokens": self.branch_tokens,
            "probes": [_name(probe) for probe in self.probes],
            "damages": {
                path: {_name(one): damage for one, damage in damages.items()}
                for path, damages in self.by_path.items()
            },
            "importance": {
                path: kept_arrays.to_json(array) for path, array in self.importance.items()
            },
        }

    @classmethod
    def from_json(cls, data: object) -> Damages:
        """Raises: ConversionError: not what `to_json` makes."""
        try:
            return _read(data)
        except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
            raise ConversionError(
                f"the kept damages are malformed ({type(error).__name__}: {error}); measure again"
            ) from None


def _read(data: Any) -> Damages:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']!r}, not {VERSION}")
    probes = tuple(_format(name) for name in data["probes"])
    by_path = {
        path: {_format(name): _damage(value) for name, value in damages.items()}
        for path, damages in data["damages"].items()
    }
    return Damages(
        by_path=by_path,
        probes=tuple(probe for probe in probes if probe is not None),
        tokens=int(data["tokens"]),
        branch_tokens=int(data["branch_tokens"]),
        importance={
            path: kept_arrays.from_json(entry) for path, entry in data["importance"].items()
        },
    )


def _damage(value: object) -> float:
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"a damage of {value!r}")
    return float(value)


def _name(chosen: Format) -> str:
    return "16bit" if chosen is None else f"{chosen.mode}-{chosen.bits}-{chosen.group_size}"


def _format(name: str) -> Format:
    if name == "16bit":
        return None
    mode, bits, group_size = name.split("-")
    return QuantParams(mode=mode, bits=int(bits), group_size=int(group_size))
