"""Names of every layout, and the order of rows that goes with official ones."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_mistral.checkpoint.names import Slot, canonical_path, hf_slot, official_slot
from mlx_mistral.checkpoint.reader import halves_from_pairs

LAYER = "model.layers.3"

OFFICIAL = {
    "tok_embeddings.weight": Slot("model.embed_tokens", "weight"),
    "mm_whisper_embeddings.tok_embeddings.weight": Slot("model.embed_tokens", "weight"),
    "norm.weight": Slot("model.norm", "weight"),
    "output.weight": Slot("lm_head", "weight"),
    "layers.3.attention.wq.weight": Slot(f"{LAYER}.self_attn.q_proj", "weight", form="interleaved"),
    "layers.3.attention.wk.weight": Slot(f"{LAYER}.self_attn.k_proj", "weight", form="interleaved"),
    "layers.3.attention.wv.weight": Slot(f"{LAYER}.self_attn.v_proj", "weight"),
    "layers.3.attention.wo.weight": Slot(f"{LAYER}.self_attn.o_proj", "weight"),
    "layers.3.attention.wq.qscale_weight": Slot(f"{LAYER}.self_attn.q_proj", "fp8_scale"),
    "layers.3.feed_forward.w1.weight": Slot(f"{LAYER}.mlp.gate_proj", "weight"),
    "layers.3.feed_forward.w2.weight": Slot(f"{LAYER}.mlp.down_proj", "weight"),
    "layers.3.feed_forward.w3.weight": Slot(f"{LAYER}.mlp.up_proj", "weight"),
    "layers.3.attention_norm.weight": Slot(f"{LAYER}.input_layernorm", "weight"),
    "layers.3.ffn_norm.weight": Slot(f"{LAYER}.post_attention_layernorm", "weight"),
    "layers.3.feed_forward.gate.weight": Slot(f"{LAYER}.block_sparse_moe.gate", "weight"),
    "layers.3.block_sparse_moe.gate.weight": Slot(f"{LAYER}.block_sparse_moe.gate", "weight"),
    "layers.3.feed_forward.experts.7.w2.weight": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.down_proj", "weight", expert=7
    ),
    "layers.3.block_sparse_moe.w1": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.gate_proj", "weight", form="expert_rows"
    ),
    "layers.3.block_sparse_moe.w2": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.down_proj", "weight", form="expert_columns"
    ),
    "layers.3.block_sparse_moe.w3": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.up_proj", "weight", form="expert_rows"
    ),
    "vision_encoder.transformer.layers.0.attention.wq.weight": None,
    "vision_language_adapter.w_in.weight": None,
    "patch_merger.merging_layer.weight": None,
    "pre_mm_projector_norm.weight": None,
    "mm_whisper_embeddings.whisper_encoder.conv.weight": None,
    "layers.3.attention.wq.qscale_act": None,
    "layers.3.attention.wq_fake_quantizer.qscale_act": None,
    "layers.03.attention.wq.weight": Slot("layers.03.attention.wq", "weight"),
    "layers.3.attention.wq.bias": Slot(f"{LAYER}.self_attn.q_proj", "bias"),
}

HF = {
    "model.embed_tokens.weight": Slot("model.embed_tokens", "weight"),
    "lm_head.weight": Slot("lm_head", "weight"),
    f"{LAYER}.self_attn.q_proj.weight": Slot(f"{LAYER}.self_attn.q_proj", "weight"),
    f"language_model.{LAYER}.mlp.up_proj.weight": Slot(f"{LAYER}.mlp.up_proj", "weight"),
    "model.language_model.layers.3.mlp.up_proj.weight": Slot(f"{LAYER}.mlp.up_proj", "weight"),
    "language_model.lm_head.weight": Slot("lm_head", "weight"),
    "model.language_model.norm.weight": Slot("model.norm", "weight"),
    f"{LAYER}.block_sparse_moe.experts.5.w3.weight": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.up_proj", "weight", expert=5
    ),
    f"{LAYER}.block_sparse_moe.experts.5.w3.scales": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.up_proj", "scales", expert=5
    ),
    f"{LAYER}.block_sparse_moe.switch_mlp.up_proj.biases": Slot(
        f"{LAYER}.block_sparse_moe.switch_mlp.up_proj", "biases"
    ),
    f"{LAYER}.mlp.up_proj.weight_scale_inv": Slot(f"{LAYER}.mlp.up_proj", "fp8_scale"),
    f"{LAYER}.mlp.up_proj.activation_scale": None,
    f"{LAYER}.self_attn.rotary_emb.inv_freq": None,
    "vision_tower.ln_pre.weight": None,
    "model.vision_tower.ln_pre.weight": None,
    "multi_modal_projector.linear_1.weight": None,
    "model.multi_modal_projector.linear_1.weight": None,
    "something.else": Slot("something", "else"),
}


@pytest.mark.parametrize(("name", "slot"), OFFICIAL.items(), ids=OFFICIAL.keys())
def test_an_official_name_has_its_place(name: str, slot: Slot | None) -> None:
    assert official_slot(name) == slot


@pytest.mark.parametrize(("name", "slot"), HF.items(), ids=HF.keys())
def test_a_hugging_face_name_has_its_place(name: str, slot: Slot | None) -> None:
    assert hf_slot(name) == slot


@pytest.mark.parametrize("prefix", ["", "language_model."])
@pytest.mark.parametrize("path", ["lm_head", f"{LAYER}.mlp.up_proj", "model.embed_tokens"])
def test_a_module_path_loses_its_wrapper(prefix: str, path: str) -> None:
    assert canonical_path(prefix + path) == path


@pytest.mark.parametrize(("heads", "head_dim"), [(1, 2), (2, 8), (3, 16)])
def test_reordered_rows_give_the_same_attention_scores(heads: int, head_dim: int) -> None:
    """RoPE over neighbours with official rows equals RoPE over halves with reordered ones."""
    rng = np.random.default_rng(0)
    x = mx.array(rng.standard_normal((1, 5, 12)), mx.float32)
    scores = []
    weights = [mx.array(rng.standard_normal((heads * head_dim, 12)), mx.float32) for _ in "qk"]
    for traditional in (True, False):
        rotated = []
        for weight in weights:
            rows = weight if traditional else halves_from_pairs(weight, head_dim)
            split = (x @ rows.T).reshape(1, 5, heads, head_dim).swapaxes(1, 2)
            rotated.append(
                mx.fast.rope(
                    split, head_dim, traditional=traditional, base=1e4, scale=1.0, offset=3
                )
            )
        scores.append(np.array(rotated[0] @ rotated[1].swapaxes(-1, -2)))
    assert np.abs(scores[0] - scores[1]).max() < 1e-4
