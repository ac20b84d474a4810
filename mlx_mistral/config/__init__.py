"""What a model is, before any array exists: dimensions, windows, RoPE, experts, quantization."""

from .model import ModelConfig, MoEConfig, QueryScaling, YarnConfig
from .quantization import QuantConfig, QuantParams

__all__ = [
    "MoEConfig",
    "ModelConfig",
    "QuantConfig",
    "QuantParams",
    "QueryScaling",
    "YarnConfig",
]
