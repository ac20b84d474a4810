"""What the catalog's models are, as far as their sizes follow from it: nothing is asked for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mlx_mistral.config import ModelConfig, MoEConfig, arithmetic


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogShape:
    """A text model's dimensions, and how its repository stores it."""

    dim: int
    n_layers: int
    n_heads: int
    hidden_dim: int
    vocab_size: int
    max_context: int
    windows: tuple[int | None, ...] = (None,)
    """Of the first layers; the others repeat them."""
    n_experts: int = 0
    tied_embeddings: bool = False
    is_fp8: bool = False
    """Matrices of the layers take a byte a weight; everything else takes two."""

    @property
    def config(self) -> ModelConfig:
        """For sizes alone: RoPE and norms are not those of the model."""
        return ModelConfig(
            family="mixtral" if self.n_experts else "mistral",
            dim=self.dim,
            n_layers=self.n_layers,
            n_heads=self.n_heads,
            n_kv_heads=8,
            head_dim=128,
            hidden_dim=self.hidden_dim,
            vocab_size=self.vocab_size,
            norm_eps=1e-5,
            rope_theta=1e6,
            windows=(self.windows * self.n_layers)[: self.n_layers],
            max_context=self.max_context,
            moe=MoEConfig(num_experts=self.n_experts, num_experts_per_tok=2)
            if self.n_experts
            else None,
            tied_embeddings=self.tied_embeddings,
        )

    @property
    def parameters(self) -> int:
        """Of the text model; towers for images do not count."""
        return arithmetic.parameters(self.config)

    @property
    def stored_bytes(self) -> int:
        """Of the text model's weights in the repository's files."""
        tables = (1 if self.tied_embeddings else 2) * self.vocab_size * self.dim
        norms = (2 * self.n_layers + 1) * self.dim
        return 2 * self.parameters - self.is_fp8 * (self.parameters - tables - norms)


_7B = CatalogShape(
    dim=4096, n_layers=32, n_heads=32, hidden_dim=14336, vocab_size=32768, max_context=32768
)
_12B = CatalogShape(
    dim=5120, n_layers=40, n_heads=32, hidden_dim=14336, vocab_size=131072, max_context=131072
)
_22B = CatalogShape(
    dim=6144, n_layers=56, n_heads=48, hidden_dim=16384, vocab_size=32768, max_context=32768
)
_24B = replace(_12B, hidden_dim=32768)
_123B = CatalogShape(
    dim=12288, n_layers=88, n_heads=96, hidden_dim=28672, vocab_size=32768, max_context=131072
)
_125B_FP8 = replace(_123B, vocab_size=131072, max_context=262144, is_fp8=True)
_MINISTRAL_3 = replace(_7B, vocab_size=131072, max_context=262144, is_fp8=True)

SHAPES: Mapping[str, CatalogShape] = {
    "mistralai/Mistral-7B-Instruct-v0.1": replace(_7B, vocab_size=32000, windows=(4096,)),
    "mistralai/Mistral-7B-Instruct-v0.2": replace(_7B, vocab_size=32000),
    "mistralai/Mistral-7B-Instruct-v0.3": _7B,
    "mistralai/mathstral-7B-v0.1": _7B,
    "mistralai/Mixtral-8x7B-Instruct-v0.1": replace(_7B, vocab_size=32000, n_experts=8),
    "mistralai/Mixtral-8x22B-Instruct-v0.1": replace(_22B, n_experts=8, max_context=65536),
    "mistralai/Mistral-Nemo-Instruct-2407": _12B,
    "mistralai/Codestral-22B-v0.1": _22B,
    "mistralai/Pixtral-12B-2409": _12B,
    "mistralai/Ministral-8B-Instruct-2410": replace(
        _7B,
        n_layers=36,
        hidden_dim=12288,
        vocab_size=131072,
        windows=(None, 32768, 32768, 32768),
    ),
    "mistralai/Ministral-3-3B-Instruct-2512": replace(
        _MINISTRAL_3, dim=3072, n_layers=26, hidden_dim=9216, tied_embeddings=True
    ),
    "mistralai/Ministral-3-8B-Instruct-2512": replace(_MINISTRAL_3, n_layers=34),
    "mistralai/Ministral-3-14B-Instruct-2512": replace(
        _MINISTRAL_3, dim=5120, n_layers=40, hidden_dim=16384
    ),
    "mistralai/Mistral-Small-3.2-24B-Instruct-2506": _24B,
    "mistralai/Mistral-Small-Instruct-2409": _22B,
    "mistralai/Mistral-Small-24B-Instruct-2501": replace(_24B, max_context=32768),
    "mistralai/Mistral-Small-3.1-24B-Instruct-2503": _24B,
    "mistralai/Magistral-Small-2509": _24B,
    "mistralai/Devstral-Small-2-24B-Instruct-2512": replace(_24B, max_context=393216, is_fp8=True),
    "mistralai/Devstral-2-123B-Instruct-2512": _125B_FP8,
    "mistralai/Mistral-Large-Instruct-2411": _123B,
    "mistralai/Mistral-Large-Instruct-2407": _123B,
    "mistralai/Mistral-Medium-3.5-128B": _125B_FP8,
}
"""By repository. Source: the repositories' own params.json and config.json."""
