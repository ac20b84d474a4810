"""How many tokens of a prompt are read at once: as was measured on this machine, or by a rule.

Larger chunks launch less and read weights less often, and hold more memory meanwhile. Where the
text does not depend on them but for rounding, speed and memory alone decide.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mistral.backend.device import device_kind, device_name
from mlx_mistral.checkpoint.dtype import dtype_name
from mlx_mistral.config import ModelConfig
from mlx_mistral.errors import MlxMistralError
from mlx_mistral.files.home import home
from mlx_mistral.files.untrusted import read_json

FILE = "tuning.json"
MAX_BYTES = 1 << 20
PREFILL_TOKENS, MIXTURE_TOKENS = 512, 1024
"""Measured on the CPU backend with models of 2 to 330 million parameters: a dense one gains nothing
by more; the experts of a mixture, who see a part of the tokens each, a tenth."""
FEWEST, MOST = 16, 1 << 14
"""What counts as a measured chunk; anything else in the file is passed over."""


def prefill_tokens(config: ModelConfig, dtype: mx.Dtype | str) -> int:
    """Tokens of a chunk for such a model. dtype: of activations, or its name."""
    measured = read().get(key(config, dtype))
    if isinstance(measured, int) and FEWEST <= measured <= MOST:
        return measured
    return rule(config)


def rule(config: ModelConfig) -> int:
    """Where nothing was measured."""
    return PREFILL_TOKENS if config.moe is None else MIXTURE_TOKENS


def read() -> dict[str, Any]:
    """Tokens by `key`; nothing where there is no file, or none to be trusted."""
    try:
        return read_json(path(), max_bytes=MAX_BYTES)
    except (MlxMistralError, OSError):
        return {}


def path() -> Path:
    return home() / FILE


def key(config: ModelConfig, dtype: mx.Dtype | str) -> str:
    """Names an architecture with its quantization on this device; what the weights say is free."""
    device = (device_kind(), device_name())
    named = f"{sorted(asdict(config).items())} {dtype_name(dtype)} {device}"
    return hashlib.sha256(named.encode()).hexdigest()[:32]
