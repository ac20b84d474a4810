"""Random tiny models of every family, quantized matrix by matrix, and their exact logits.

A model is described by `ModelCase` and drawn by `model_cases`. `check_greedy` compares logits and
greedy tokens with `reference.logits` on the dequantized weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import reference
from hypothesis import strategies as st
from mlx.utils import tree_flatten
from tiny import FAMILIES, tiny_config, tiny_model

from mlx_mistral.model import Model, fuse

WIDE: dict[str, Any] = {
    "dim": 64, "hidden_dim": 128, "head_dim": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 4,
}  # fmt: skip
"""Sizes that groups of 32 and 64 divide, and no two of them interchangeable by accident."""
DENSE = [family for family in FAMILIES if not family.startswith("mixtral")]
TOLERANCE = 2e-5
"""Of float32 logits of order 1, unquantized."""
QUANTIZED_TOLERANCE = 5e-5
"""The same where products are summed from codes, scales and biases in float32."""

Format = tuple[int, int, str]
"""Bits, group size and mode."""
FORMATS: tuple[Format, ...] = (
    (4, 32, "affine"), (4, 64, "affine"), (3, 32, "affine"), (6, 64, "affine"), (8, 32, "affine"),
    (4, 32, "mxfp4"),
)  # fmt: skip
UNIFORM: Format = (4, 32, "affine")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SCOPES = {
    "none": lambda layer, n_layers: False,
    "first": lambda layer, n_layers: layer == 0,
    "last": lambda layer, n_layers: layer == n_layers - 1,
    "all": lambda layer, n_layers: True,
}
"""The layers in which projections have formats of their own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCase:
    """The description of a model.

    Example:
        case = ModelCase(family="mixtral", scope="last", formats=(("v_proj", (6, 64, "affine")),))
        model = case.build()
    """

    family: str
    scope: str = "none"
    formats: tuple[tuple[str, Format | None], ...] = ()
    """Formats by projection in the layers of the scope; None leaves a matrix unquantized."""
    base: Format | None = None
    """The format of all other matrices."""
    embedding: Format | None = None
    head: Format | None = None
    is_fused: bool = False
    seed: int = 0

    @property
    def is_quantized(self) -> bool:
        return any((self.base, self.embedding, self.head)) or (
            self.scope != "none" and any(form for _, form in self.formats)
        )

    @property
    def tolerance(self) -> float:
        return QUANTIZED_TOLERANCE if self.is_quantized else TOLERANCE

    def build(self, dtype: mx.Dtype = mx.float32, **changes: Any) -> Model:
        config = tiny_config(**{**WIDE, **FAMILIES[self.family], **changes})
        model = tiny_model(config, self.seed)
        model.set_dtype(dtype)
        if self.is_quantized:
            nn.quantize(model, class_predicate=self._parameters)
        if self.is_fused:
            fuse(model)
        mx.eval(model.parameters())
        return model

    def format_of(self, path: str) -> Format | None:
        """Return the format of the matrix at a path such as `model.layers.3.self_attn.q_proj`."""
        *_, name = path.split(".")
        if name == "embed_tokens":
            return self.embedding
        if name == "lm_head":
            return self.head
        if name not in PROJECTIONS:
            return None
        n_layers = int(WIDE["n_layers"])
        if SCOPES[self.scope](int(path.split(".")[2]), n_layers):
            return dict(self.formats).get(name, self.base)
        return self.base

    def _parameters(self, path: str, module: nn.Module) -> bool | dict[str, Any]:
        form = self.format_of(path)
        if form is None or module["weight"].shape[-1] % form[1]:
            return False
        return dict(zip(("bits", "group_size", "mode"), form, strict=True))


def model_cases(
    families: Sequence[str] = tuple(FAMILIES), *, are_quantized: bool | None = None
) -> st.SearchStrategy[ModelCase]:
    """Return a strategy for models; are_quantized: None: some are, some are not."""
    formats = st.none() | st.sampled_from(FORMATS)
    quantized = st.builds(
        ModelCase,
        family=st.sampled_from(families),
        scope=st.sampled_from(["last", "all", "first", "none"]),
        formats=st.tuples(*[st.tuples(st.just(name), formats) for name in PROJECTIONS]),
        base=st.sampled_from([UNIFORM, None]),
        embedding=formats,
        head=formats,
        is_fused=st.booleans(),
        seed=st.integers(0, 3),
    )
    plain = st.builds(
        ModelCase,
        family=st.sampled_from(families),
        is_fused=st.booleans(),
        seed=st.integers(0, 3),
    )
    if are_quantized is None:
        return quantized | plain
    return quantized if are_quantized else plain


def unequal_last_layer(family: str) -> ModelCase:
    """Return the case of `--recipe mixed_3_6`: v_proj of the last layer has more bits."""
    lifted: Format = (6, 32, "affine")
    return ModelCase(
        family=family,
        scope="last",
        formats=(("v_proj", lifted), ("down_proj", lifted)),
        base=(3, 32, "affine"),
        embedding=(3, 32, "affine"),
        head=lifted,
        is_fused=True,
    )


def exact_weights(model: Model) -> dict[str, np.ndarray]:
    """Return the parameters by name in float64, dequantized, for `reference.logits`."""
    stored: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    weights = {name: np.array(w.astype(mx.float32), np.float64) for name, w in stored.items()
               if w.dtype not in (mx.uint32, mx.uint8)}  # fmt: skip
    for path, module in model.named_modules():
        if "scales" in module:
            scales, biases = (
                part if part is None or part.dtype == mx.uint8 else part.astype(mx.float32)
                for part in (module["scales"], module.get("biases"))
            )
            matrix = mx.dequantize(
                module["weight"],
                scales,
                biases,
                group_size=module.group_size,
                bits=module.bits,
                mode=module.mode,
            )
            weights[f"{path}.weight"] = np.array(matrix.astype(mx.float32), np.float64)
    return weights


class Specification:
    """The exact logits of a model.

    Example:
        specification = Specification(model)
        logits = specification.logits([1, 2, 3])  # (3, vocab)
    """

    def __init__(self, model: Model) -> None:
        self._config, self._weights = model.config, exact_weights(model)

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        return reference.logits(self._config, self._weights, list(ids))

    def check_greedy(
        self,
        prompt: Sequence[int],
        tokens: Sequence[int],
        logits: Sequence[mx.array] | None,
        tolerance: float,
    ) -> None:
        """Assert that tokens follow a prompt greedily, and from which logits they were sampled.

        A token is right if no other logit is larger by more than rounding may be: where the margin
        of the reference is larger than that, it is the reference's token.
        Shapes: logits (vocab,) each; None: unknown.
        """
        assert len(tokens) > 0
        expected = self.logits([*prompt, *tokens[:-1]])[len(prompt) - 1 :]
        if logits is not None:
            actual = np.stack([np.array(row) for row in logits])
            assert actual.shape == expected.shape
            assert np.abs(actual - expected).max() < tolerance
        sampled = np.take_along_axis(expected, np.array(tokens)[:, None], axis=1)[:, 0]
        assert (expected.max(axis=1) - sampled).max() < 2 * tolerance
