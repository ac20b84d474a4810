"""The `quantization` block of an MLX folder's config.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlx_mistral.errors import ConfigError

from .fields import Fields

AFFINE_BITS = (2, 3, 4, 5, 6, 8)
AFFINE_GROUPS = (32, 64, 128)
FIXED_MODES: Mapping[str, tuple[int, int]] = {"mxfp4": (4, 32), "nvfp4": (4, 16), "mxfp8": (8, 32)}
"""Modes whose bits and group size are part of the format."""
KV_BITS = (8, 4)
"""The widths that keys and values are quantized to."""
KV_GROUPS = (64, 32)
"""Numbers of a key or value that share a scale and a bias, the preferred first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantParams:
    """How one matrix is stored: bits a weight, weights a group, and the format."""

    group_size: int
    bits: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        if self.mode in FIXED_MODES:
            if (self.bits, self.group_size) != FIXED_MODES[self.mode]:
                bits, group_size = FIXED_MODES[self.mode]
                raise ConfigError(
                    f"quantization: {self.mode} with {self.bits} bits and groups of "
                    f"{self.group_size}; it has {bits} bits and groups of {group_size}"
                )
        elif self.mode != "affine":
            known = ", ".join(["affine", *FIXED_MODES])
            raise ConfigError(f"quantization: unknown mode {self.mode!r}; known are {known}")
        elif self.bits not in AFFINE_BITS or self.group_size not in AFFINE_GROUPS:
            raise ConfigError(
                f"quantization: affine with {self.bits} bits and groups of {self.group_size}; "
                f"bits are one of {AFFINE_BITS}, groups one of {AFFINE_GROUPS}"
            )

    @property
    def bits_per_weight(self) -> float:
        """Bits a weight with its share of the group's scale and bias."""
        per_group = 32 if self.mode == "affine" else 8
        return self.bits + per_group / self.group_size


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """The default and, by module path, the exceptions (None: stored unquantized)."""

    default: QuantParams
    overrides: Mapping[str, QuantParams | None] = field(default_factory=dict)

    def for_path(self, path: str) -> QuantParams | None:
        """How the module at a path is stored, if it is quantized at all."""
        return self.overrides.get(path, self.default)

    @classmethod
    def from_json(cls, block: object) -> QuantConfig:
        """Reads mlx-lm's convention: defaults beside one entry for each path that differs."""
        fields = Fields(block, "config.json: quantization")
        default = _params(fields, QuantParams(group_size=64, bits=4))
        # Left by conversions from other quantized formats; describes their origin alone.
        fields.drop(("quant_method", "linear_class", "quantize_embeddings"))
        overrides = {
            path: _override(path, fields.take(path), default) for path in fields.remaining()
        }
        return cls(default=default, overrides=overrides)

    def to_json(self) -> dict[str, Any]:
        """The block as mlx-lm reads it."""
        block: dict[str, Any] = _to_json(self.default)
        for path, params in self.overrides.items():
            block[path] = False if params is None else _to_json(params)
        return block


def _override(path: str, entry: object, default: QuantParams) -> QuantParams | None:
    if entry is False:
        return None
    if entry is True:
        return default
    fields = Fields(entry, f"config.json: quantization: {path}")
    params = _params(fields, default)
    fields.finish()
    return params


def _params(fields: Fields, default: QuantParams) -> QuantParams:
    mode = fields.take("mode", None) or default.mode
    if not isinstance(mode, str):
        raise ConfigError(f"{fields.where}: mode is {mode!r}; a name is expected")
    bits, group_size = FIXED_MODES.get(mode, (default.bits, default.group_size))
    return QuantParams(
        group_size=fields.integer("group_size", group_size),
        bits=fields.integer("bits", bits),
        mode=mode,
    )


def _to_json(params: QuantParams) -> dict[str, Any]:
    return {"group_size": params.group_size, "bits": params.bits, "mode": params.mode}
