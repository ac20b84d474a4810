"""ModelConfig: the numbers that decide what a Mistral model computes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_mistral.errors import ConfigError

from .quantization import QuantConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MoEConfig:
    """A sparse mixture of experts in place of each feed-forward block."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True, slots=True, kw_only=True)
class YarnConfig:
    """Context extension of RoPE by interpolating its slow frequencies.

    Source: arXiv:2309.00071.
    """

    factor: float
    original_context: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    """Multiplies queries and keys; 1 where the checkpoint says `apply_scale: false`."""

    @staticmethod
    def magnitude(factor: float) -> float:
        """The attention factor where the checkpoint applies it: 0.1 ln(factor) + 1."""
        return 0.1 * math.log(factor) + 1.0 if factor > 1 else 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryScaling:
    """Queries grow with the position: 1 + beta ln(1 + floor(position / original_context))."""

    beta: float
    original_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """A Mistral model's architecture.

    Made by `from_params` (Mistral's params.json) or `from_hf` (a config.json), which
    agree for the two descriptions of one model.
    """

    family: str
    """Which Hugging Face text model it is: mistral, mixtral, ministral or ministral3."""
    dim: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    hidden_dim: int
    vocab_size: int
    norm_eps: float
    rope_theta: float
    windows: tuple[int | None, ...]
    """For each layer how many keys a token sees, itself included; None: all of them."""
    max_context: int | None = None
    """Positions the model was made for; None where its file does not say."""
    moe: MoEConfig | None = None
    yarn: YarnConfig | None = None
    query_scaling: QueryScaling | None = None
    tied_embeddings: bool = False
    quantization: QuantConfig | None = None

    def __post_init__(self) -> None:
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(
                f"{self.n_heads} query heads cannot share {self.n_kv_heads} key/value heads; "
                "n_heads must be a multiple of n_kv_heads"
            )
        if self.head_dim % 2:
            raise ConfigError(f"head_dim is {self.head_dim}; RoPE needs an even number")
        if len(self.windows) != self.n_layers:
            raise ConfigError(f"{len(self.windows)} windows for {self.n_layers} layers")
        if self.moe and not 1 <= self.moe.num_experts_per_tok <= self.moe.num_experts:
            raise ConfigError(
                f"a token cannot go to {self.moe.num_experts_per_tok} of "
                f"{self.moe.num_experts} experts"
            )

    @property
    def sliding_window(self) -> int | None:
        """The widest window of any layer; None where no layer has one."""
        widths = [width for width in self.windows if width is not None]
        return max(widths) if widths else None

    @property
    def is_windowed(self) -> bool:
        """True where every layer has a window, so that its cache never grows past it."""
        return all(width is not None for width in self.windows)

    @classmethod
    def from_params(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Reads Mistral's own params.json. Raises: ConfigError."""
        from .params import read_params

        return read_params(data)

    @classmethod
    def from_hf(cls, data: Mapping[str, Any]) -> ModelConfig:
        """Reads a Hugging Face or MLX config.json. Raises: ConfigError."""
        from .hugging_face import read_config

        return read_config(data)
