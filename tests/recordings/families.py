"""The tiny models that are recorded, and the mistakes each one has to notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import transformers


@dataclass(frozen=True, kw_only=True)
class Family:
    """A configuration, the size of its recording, and the likely mistakes it must reveal.

    A mistake replaces keys of the (text) configuration; the key `rope` updates rope_parameters.
    """

    name: str
    config_class: str
    architecture: str
    settings: dict[str, Any]
    mistakes: tuple[dict[str, Any], ...]
    wrapper: bool = False
    dtype: torch.dtype = torch.bfloat16
    seed: int = 1
    shape: tuple[int, int] = (2, 48)
    max_shard_size: str = "1MB"

    @property
    def vocab_size(self) -> int:
        return int(self.settings["vocab_size"])

    @property
    def top_k(self) -> int:
        return int(self.settings.get("num_experts_per_tok", 0))

    def config(self, mistake: dict[str, Any] | None = None) -> Any:
        """The transformers configuration, fresh each time because transformers edits it."""
        settings = {**self.settings, **(mistake or {})}
        rope = {**settings["rope_parameters"], **settings.pop("rope", {})}
        text = getattr(transformers, self.config_class)(**settings | {"rope_parameters": rope})
        if not self.wrapper:
            text.architectures = [self.architecture]
            return text
        return transformers.Mistral3Config(
            text_config=text,
            vision_config=VISION,
            tie_word_embeddings=settings["tie_word_embeddings"],
            architectures=[self.architecture],
        )


VISION = {
    "model_type": "pixtral",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}


def plain_rope(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta}


SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
# As in 8x7B's config.json, head_dim is not given: it is dim / heads here.
SMALL_MOE = {
    **{key: value for key, value in SMALL.items() if key != "head_dim"},
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e3,
    "factor": 16.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
# The cos/sin factor is on, there is no query scaling, and the ramp starts above dimension 0.
YARN_SCALED = {
    **YARN,
    "rope_theta": 1e2,
    "factor": 64.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 4.0,
    "mscale_all_dim": 0.0,
    "llama_4_scaling_beta": 0.0,
}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            name="mistral",
            config_class="MistralConfig",
            architecture="MistralForCausalLM",
            settings=SMALL | {"sliding_window": None, "rope_parameters": plain_rope(1e6)},
            mistakes=({"sliding_window": 40}, {"rope": {"rope_theta": 1e4}}),
            dtype=torch.float32,
        ),
        Family(
            name="mistral-window",
            config_class="MistralConfig",
            architecture="MistralForCausalLM",
            settings=SMALL | {"sliding_window": 8, "rope_parameters": plain_rope(1e4)},
            mistakes=(
                {"sliding_window": None},
                {"sliding_window": 7},
                {"sliding_window": 9},
                {"rope": {"rope_theta": 1e6}},
            ),
        ),
        Family(
            name="mixtral",
            config_class="MixtralConfig",
            architecture="MixtralForCausalLM",
            settings=SMALL_MOE | {"sliding_window": None, "rope_parameters": plain_rope(1e6)},
            mistakes=(
                {"num_experts_per_tok": 1},
                {"num_experts_per_tok": 3},
                {"rope": {"rope_theta": 1e4}},
            ),
        ),
        Family(
            name="mixtral-window",
            config_class="MixtralConfig",
            architecture="MixtralForCausalLM",
            settings=SMALL_MOE | {"sliding_window": 6, "rope_parameters": plain_rope(1e6)},
            mistakes=({"sliding_window": None}, {"sliding_window": 5}, {"sliding_window": 7}),
            seed=0,
            max_shard_size="50KB",
        ),
        Family(
            name="nemo",
            config_class="MistralConfig",
            architecture="MistralForCausalLM",
            settings=SMALL
            | {
                "vocab_size": 160,
                "hidden_size": 40,
                "head_dim": 16,
                "num_hidden_layers": 2,
                "sliding_window": None,
                "rope_parameters": plain_rope(1e6),
            },
            mistakes=({"rope": {"rope_theta": 1e4}},),
        ),
        Family(
            name="ministral",
            config_class="MinistralConfig",
            architecture="MinistralForCausalLM",
            settings=SMALL
            | {
                "num_hidden_layers": 4,
                "sliding_window": 8,
                "layer_types": ["full_attention", *["sliding_attention"] * 3],
                "rope_parameters": plain_rope(1e8),
            },
            mistakes=(
                {"layer_types": ["sliding_attention"] * 4},
                {"layer_types": ["full_attention"] * 4},
                {"layer_types": [*["sliding_attention"] * 3, "full_attention"]},
            ),
        ),
        Family(
            name="ministral3",
            config_class="Ministral3Config",
            architecture="Ministral3ForCausalLM",
            settings=SMALL
            | {
                "head_dim": 16,
                "num_hidden_layers": 2,
                "tie_word_embeddings": True,
                "rope_parameters": YARN,
            },
            mistakes=(
                {"rope": {"llama_4_scaling_beta": 0.0}},
                {"rope": {"original_max_position_embeddings": 15}},
                {"rope": {"rope_type": "default"}},
                {"rope": {"mscale_all_dim": 0.0}},
                {"rope": {"factor": 8.0}},
            ),
            shape=(2, 72),
        ),
        Family(
            name="devstral2",
            config_class="Ministral3Config",
            architecture="Ministral3ForCausalLM",
            settings=SMALL
            | {"head_dim": 32, "num_hidden_layers": 2, "rope_parameters": YARN_SCALED},
            mistakes=(
                {"rope": {"mscale_all_dim": 1.0}},
                {"rope": {"llama_4_scaling_beta": 0.1}},
                {"rope": {"rope_type": "default"}},
                {"rope": {"beta_fast": 32.0}},
            ),
            shape=(1, 96),
        ),
        Family(
            name="mistral3",
            config_class="MistralConfig",
            architecture="Mistral3ForConditionalGeneration",
            settings=SMALL
            | {
                "head_dim": 16,
                "num_hidden_layers": 2,
                "sliding_window": None,
                "rope_parameters": plain_rope(1e9),
            },
            mistakes=({"rope": {"rope_theta": 1e4}},),
            wrapper=True,
        ),
        Family(
            name="mistral3-yarn-tied",
            config_class="Ministral3Config",
            architecture="Mistral3ForConditionalGeneration",
            settings=SMALL
            | {
                "num_hidden_layers": 2,
                "tie_word_embeddings": True,
                "rope_parameters": YARN | {"type": "yarn", "max_position_embeddings": 512},
            },
            mistakes=(
                {"rope": {"llama_4_scaling_beta": 0.0}},
                {"rope": {"rope_type": "default"}},
            ),
            wrapper=True,
            shape=(1, 64),
        ),
    )
}
