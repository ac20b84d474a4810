"""Tiny random models of every family, small enough to run in a test and big enough to be wrong."""

from __future__ import annotations

import codecs
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_map

from mlx_mistral.config import ModelConfig
from mlx_mistral.model import Model

BASE: dict[str, Any] = {
    "dim": 24, "n_layers": 4, "head_dim": 8, "hidden_dim": 32, "n_heads": 4, "n_kv_heads": 2,
    "norm_eps": 1e-5, "vocab_size": 61,
}  # fmt: skip
MOE = {"moe": {"num_experts": 8, "num_experts_per_tok": 2}}
YARN = {"factor": 4, "original_max_position_embeddings": 8, "beta": 4, "alpha": 1}
FAMILIES: dict[str, dict[str, Any]] = {
    "mistral": {},
    "mistral-window": {"sliding_window": 6},
    "mixtral": MOE,
    "mixtral-window": {**MOE, "sliding_window": 6},
    "nemo": {"head_dim": 16, "n_heads": 2, "n_kv_heads": 1},
    "ministral": {"_sliding_window": [None, 5, 5, 5]},
    "ministral3": {
        "yarn": {**YARN, "apply_scale": False},
        "llama_4_scaling": {"beta": 0.5, "original_max_position_embeddings": 8},
        "tied_embeddings": True,
    },
    "devstral2": {"yarn": {**YARN, "apply_scale": True}},
}


def tiny_config(**changes: Any) -> ModelConfig:
    return ModelConfig.from_params({**BASE, **changes})


def tiny_model(config: ModelConfig, seed: int = 0) -> Model:
    """Weights large enough that attention is far from uniform and logits are of order 1."""
    mx.random.seed(seed)
    model = Model(config)

    def spread(weight: mx.array) -> mx.array:
        if weight.ndim == 1:
            return 1 + 0.3 * mx.random.normal(weight.shape)
        return mx.random.normal(weight.shape) * 1.2 * weight.shape[-1] ** -0.5

    model.update(tree_map(spread, model.parameters()))
    mx.eval(model.parameters())
    return model


def weights_of(model: Model) -> dict[str, np.ndarray]:
    """Parameters by name in float64, for `reference.logits`."""
    parameters: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return {name: np.array(array, dtype=np.float64) for name, array in parameters.items()}


def random_ids(n: int, vocab_size: int = 61, seed: int = 0) -> list[int]:
    return [int(one) for one in np.random.default_rng(seed).integers(0, vocab_size, n)]


def run(model: Model, ids: list[int], chunks: list[int]) -> np.ndarray:
    """Logits of all tokens, fed to new caches chunk by chunk. Shapes: -> (T, vocab)."""
    assert sum(chunks) == len(ids)
    cache, out, start = model.make_cache(), [], 0
    for n in chunks:
        out.append(model(mx.array([ids[start : start + n]]), cache)[0])
        start += n
    return np.array(mx.concatenate(out))


class LetterTokenizer:
    """One id a byte from 10 on, control ids below; enough of a tokenizer to stream and chat."""

    version, note, bos_id, eos_ids, vocab_size = "v3", None, 1, frozenset({2}), 266

    def encode(self, text: str) -> list[int]:
        return [10 + byte for byte in text.encode()]

    def decode(self, token_ids: list[int], *, keep_control: bool = False) -> str:
        return bytes(one - 10 for one in token_ids if one >= 10).decode(errors="replace")

    def encode_chat(self, messages: list[dict[str, Any]], tools: object = None) -> list[int]:
        ids = [1]
        for message in messages:
            text = self.encode(message["content"])
            ids += [*text, 2] if message["role"] == "assistant" else [3, *text, 4]
        return ids

    def stream(self, *, keep_control: bool = False) -> LetterStream:
        return LetterStream()

    def control_id(self, name: str) -> int | None:
        return None

    def is_control(self, token_id: int) -> bool:
        return token_id < 10


class LetterStream:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        return self._decoder.decode(bytes([token_id - 10])) if token_id >= 10 else ""

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)
