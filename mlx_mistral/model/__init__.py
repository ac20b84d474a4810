"""The transformer: token ids in, logits out. Nothing here touches files."""

from .fused import fuse
from .moe import ExpertLinear, QuantizedExpertLinear, SparseMoE
from .transformer import Model

__all__ = ["ExpertLinear", "Model", "QuantizedExpertLinear", "SparseMoE", "fuse"]
