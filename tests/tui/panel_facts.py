"""Facts, figures and tokens for tests of panels."""

from __future__ import annotations

from typing import Any

from mlx_mistral.live.events import Alternative, ModelFacts, Piece, Progress, Routed


def facts(**changes: Any) -> ModelFacts:
    values: dict[str, Any] = {
        "name": "mistral-7b",
        "family": "Mistral",
        "parameters": 7_248_023_552,
        "active_parameters": 7_248_023_552,
        "weight_bytes": 4_080_000_000,
        "bits_per_weight": 4.5,
        "n_layers": 4,
        "windows": (4096,) * 4,
        "n_experts": 0,
        "experts_per_token": 0,
        "context": 32768,
    }
    return ModelFacts(**(values | changes))


def progress(**changes: Any) -> Progress:
    values: dict[str, Any] = {
        "id": 1,
        "prompt_tokens": 1200,
        "reused_tokens": 200,
        "reply_tokens": 34,
        "prefill_tps": 812.4,
        "decode_tps": 42.13,
        "first_token_seconds": 0.418,
        "cache_tokens": 1234,
        "cache_bytes": 128_300_000,
        "memory_bytes": 4_210_000_000,
        "memory_limit_bytes": 12_000_000_000,
    }
    return Progress(**(values | changes))


def piece(token: int, text: str, probability: float | None = None, **changes: Any) -> Piece:
    others: tuple[Alternative, ...] = ()
    if probability is not None:
        others = (
            Alternative(token=token, text=text, probability=probability),
            Alternative(token=token + 1000, text=f"{text}?", probability=(1 - probability) / 2),
        )
    values: dict[str, Any] = {"id": 1, "probability": probability, "alternatives": others}
    return Piece(token=token, text=text, **(values | changes))


def routed(tokens: int = 1, id: int = 1) -> Routed:
    """Tokens that were worked on by experts 0 to 2 and 3 of four layers' eight."""
    layers = ((0, 3), (1, 3), (2, 3), (3, 4))
    counts = tuple(tuple(tokens * (e in layer) for e in range(8)) for layer in layers)
    return Routed(id=id, tokens=tokens, counts=counts)
