"""How fast a model should decode, from what a token reads and how fast memory is.

    tokens a second = bandwidth x share reached / (weights read + cache read)

Decoding one text multiplies each weight with one vector, so that on Apple's GPUs memory bounds
it, not arithmetic. It is an expectation, not a measurement: published runs of other models than
those that the shares come from differ from it by up to a quarter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlx_mistral.checkpoint.parameters import Parameter
from mlx_mistral.config import ModelConfig, arithmetic

from .cache import pair_bytes
from .chips import Chip
from .traffic import bytes_of_pass, keys_seen

PUBLISHED_SHARE: Mapping[str, float] = {
    "M1": 0.76, "M2": 0.88, "M1 Max": 0.61, "M4 Max": 0.76, "M5 Max": 0.80,
    "M1 Ultra": 0.56, "M2 Ultra": 0.66, "M3 Ultra": 0.62,
}  # fmt: skip
"""Share of the nominal bandwidth that decoding a 7B or 8B model of 4 bits with MLX reaches.

Computed from published tokens a second: MLX pull requests 979 (M1, M1 Max) and 1864 (M2,
M2 Ultra, M4 Max), a table of mlx-lm 0.31.3 runs of September 2026 (M1 Ultra, M5 Max), and
Rapid-MLX pull request 586 (M3 Ultra).
"""
TIER_SHARE: Mapping[str, float] = {"": 0.82, "Pro": 0.72, "Max": 0.72, "Ultra": 0.61}
"""For chips without such a run: the mean of their tier's.

No run of MLX on a Pro was found; that is the mean of llama.cpp's five (Llama-2-7B Q4_0,
discussion 4167).
"""
FASTEST_TPS = 250
"""Twice the fastest of those runs: beyond it launching kernels counts, and nothing is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSpeed:
    """What one token reads at a depth, and the speed to be expected of it."""

    chip: Chip
    weights_bytes: int
    cache_bytes: int
    share: float
    """Of the nominal bandwidth."""

    @property
    def bytes_per_token(self) -> int:
        """Weights and cache."""
        return self.weights_bytes + self.cache_bytes

    @property
    def tps(self) -> float:
        """Tokens a second."""
        return self.chip.bandwidth_gbs * 1e9 * self.share / max(self.bytes_per_token, 1)

    @property
    def is_memory_bound(self) -> bool:
        """Whether the model is large enough for the formula to say anything."""
        return self.tps <= FASTEST_TPS


def decode_speed(
    config: ModelConfig, chip: Chip, *, weights_bytes: int, depth: int, activation_bytes: int
) -> DecodeSpeed:
    """The speed at a depth of so many tokens.

    weights_bytes: those that one token reads, from `weights_read` or `unquantized_weights_read`.
    """
    return DecodeSpeed(
        chip=chip,
        weights_bytes=weights_bytes,
        cache_bytes=cache_read(config, depth, activation_bytes),
        share=PUBLISHED_SHARE.get(chip.name, TIER_SHARE[chip.tier]),
    )


def cache_read(config: ModelConfig, depth: int, activation_bytes: int) -> int:
    """Bytes of keys and values that a token at a depth sees: of each layer its window at most."""
    return pair_bytes(config, keys_seen(config, depth - 1, 1), activation_bytes)


def weights_read(
    config: ModelConfig, parameters: Mapping[str, Parameter], activation_bytes: int
) -> int:
    """Bytes of weights that one token reads: of the experts its top-k, of the embeddings a row.

    Tied embeddings are also the head, which is read whole.
    """
    return round(bytes_of_pass(config, parameters, activation_bytes, n_tokens=1))


def unquantized_weights_read(config: ModelConfig, activation_bytes: int) -> int:
    """As `weights_read`, by a configuration's arithmetic alone."""
    table = 0 if config.tied_embeddings else (config.vocab_size - 1) * config.dim
    return activation_bytes * (arithmetic.active_parameters(config) - table)
