"""The transformer: token ids in, logits out. Nothing here touches files."""

from .experts import ExpertLinear, QuantizedExpertLinear, SparseMoE
from .fused import fuse
from .transformer import Model

__all__ = ["ExpertLinear", "Model", "QuantizedExpertLinear", "SparseMoE", "fuse"]
