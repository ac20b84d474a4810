"""The one place that knows other spellings of a parameter's name.

Canonical are the names of converted MLX checkpoints, which are also our modules' paths.
Sources: mistral-inference's modules (official), transformers' mistral, mixtral, mistral3
(Hugging Face), mlx-lm's mixtral (stacked experts).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Layout = Literal["official", "hf", "mlx"]

Form = Literal["plain", "interleaved", "expert_rows", "expert_columns"]
"""How the stored numbers lie compared with the canonical ones: the same; rows of each head in
RoPE pairs (2i, 2i+1) instead of halves; experts as blocks of rows; and the same transposed."""


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a stored tensor belongs: part of the module at `path`."""

    path: str
    part: str
    """weight, scales or biases; fp8_scale multiplies the weight and is gone after loading."""
    expert: int | None = None
    """Which expert's, where the checkpoint keeps experts apart and the model stacks them."""
    form: Form = "plain"

    @property
    def target(self) -> str:
        return f"{self.path}.{self.part}"


PARTS = {
    "weight": "weight",
    "scales": "scales",
    "biases": "biases",
    "qscale_weight": "fp8_scale",
    "weight_scale_inv": "fp8_scale",
    "weight_scale": "fp8_scale",
}
OFFICIAL_TOP = {
    "tok_embeddings": "model.embed_tokens",
    "mm_whisper_embeddings.tok_embeddings": "model.embed_tokens",
    "norm": "model.norm",
    "output": "lm_head",
}
OFFICIAL_LAYER = {
    "attention.wq": "self_attn.q_proj",
    "attention.wk": "self_attn.k_proj",
    "attention.wv": "self_attn.v_proj",
    "attention.wo": "self_attn.o_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w2": "mlp.down_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.gate": "block_sparse_moe.gate",
    "block_sparse_moe.gate": "block_sparse_moe.gate",
}
EXPERT = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
STACK = "block_sparse_moe.switch_mlp"

HF_PREFIXES = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
}
SKIPPED_PREFIXES = (
    "vision_tower.", "multi_modal_projector.", "audio_tower.",
    "model.vision_tower.", "model.multi_modal_projector.", "model.audio_tower.",
    "vision_encoder.", "vision_language_adapter.", "patch_merger.", "pre_mm_projector_norm.",
    "mm_whisper_embeddings.",
)  # fmt: skip
"""Towers for images and sound: not needed to read and write text."""
SKIPPED_SUFFIXES = (".rotary_emb.inv_freq", ".qscale_act", ".activation_scale", ".input_scale")
"""RoPE tables that we compute, and scales of quantized activations."""

_LAYER = re.compile(r"layers\.(0|[1-9]\d{0,6})\.(.+)")
_EXPERT = re.compile(r"(?:feed_forward|block_sparse_moe)\.experts\.(0|[1-9]\d{0,6})\.(w[123])")
_EXPERT_BLOCKS = re.compile(r"layers\.(0|[1-9]\d{0,6})\.block_sparse_moe\.(w[123])")


def slot(name: str, layout: Layout) -> Slot | None:
    """Where a stored tensor belongs; None where a text model has no use for it.

    A name that no table knows keeps its spelling, so that it is reported as it stands.
    """
    return official_slot(name) if layout == "official" else hf_slot(name)


def official_slot(name: str) -> Slot | None:
    """For the names of Mistral's own `consolidated` files."""
    module, _, leaf = name.rpartition(".")
    if module not in OFFICIAL_TOP and _skipped(name):
        return None
    if blocks := _EXPERT_BLOCKS.fullmatch(name):
        layer, matrix = blocks.groups()
        form: Form = "expert_columns" if matrix == "w2" else "expert_rows"
        return Slot(f"model.layers.{layer}.{STACK}.{EXPERT[matrix]}", "weight", form=form)
    part = PARTS.get(leaf, leaf)
    if module in OFFICIAL_TOP:
        return Slot(OFFICIAL_TOP[module], part)
    if in_layer := _LAYER.fullmatch(module):
        layer, inner = in_layer.groups()
        if inner in OFFICIAL_LAYER:
            paired = inner in ("attention.wq", "attention.wk") and part == "weight"
            form = "interleaved" if paired else "plain"
            return Slot(f"model.layers.{layer}.{OFFICIAL_LAYER[inner]}", part, form=form)
        if expert := _expert_slot(layer, inner, part):
            return expert
    return Slot(module, part)


def hf_slot(name: str) -> Slot | None:
    """For the names of Hugging Face and MLX folders."""
    if _skipped(name):
        return None
    module, _, leaf = canonical_path(name).rpartition(".")
    part = PARTS.get(leaf, leaf)
    if module.startswith("model.") and (in_layer := _LAYER.fullmatch(module, len("model."))):
        layer, inner = in_layer.groups()
        if expert := _expert_slot(layer, inner, part):
            return expert
    return Slot(module, part)


def canonical_path(path: str) -> str:
    """A Hugging Face path without the prefix that wraps a text model in a multimodal one."""
    for prefix, replacement in HF_PREFIXES.items():
        if path.startswith(prefix):
            return replacement + path[len(prefix) :]
    return "lm_head" if path == "language_model.lm_head" else path


def _expert_slot(layer: str, inner: str, part: str) -> Slot | None:
    if match := _EXPERT.fullmatch(inner):
        number, matrix = match.groups()
        path = f"model.layers.{layer}.{STACK}.{EXPERT[matrix]}"
        return Slot(path, part, expert=int(number))
    return None


def _skipped(name: str) -> bool:
    return (
        name.startswith(SKIPPED_PREFIXES)
        or name.endswith(SKIPPED_SUFFIXES)
        or "_fake_quantizer" in name
    )
